"""Places as users write them: from the root on where the user is, and none that a job would lose with its folder."""

import os
from collections.abc import Mapping
from pathlib import Path

from l2c_ray.errors import ConfigError
from l2c_ray.storage.files import from_root, home

_HOME = "$L2C_HOME"

_SET_BY_RAY = ("RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_RAYLET_PID")
"""The first, really called so by Ray, for what `ray job submit` runs; the second for workers, as of Ray Serve."""

LOST = "is relative, and what a job writes to its own folder on the cluster is lost with that folder"
WAY_OUT = "give a path from the root on"


def absolute(path: str, folder: Path = Path()) -> Path:
    """The path from the root on, a relative one from `folder` on.

    `~` and `$L2C_HOME` at its beginning stand for the folders of these names.

    Raises:
        ValueError: it can be no path.
        StorageError: it is relative to a working folder that was deleted.
    """
    return from_root(folder / _expanded(path))


def is_a_job(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the process runs in a folder of Ray's, in which the cluster runs jobs and workers.

    A submission's folder is copied into one, which is removed sooner or later.
    """
    return any(name in environment for name in _SET_BY_RAY)


def is_lost(path: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written there is lost with such a folder.

    Raises:
        ValueError: it can be no path.
    """
    return is_a_job(environment) and not _expanded(path).is_absolute()


def require_lasting(subject: str, path: str, environment: Mapping[str, str] = os.environ) -> None:
    """Refuses a place to write to that is lost; `subject` is what names it.

    Raises:
        ConfigError: it is lost.
        ValueError: it can be no path.
    """
    if is_lost(path, environment):
        raise ConfigError(subject, LOST, WAY_OUT)


def _expanded(path: str) -> Path:
    if "\0" in path:
        raise ValueError("has a null byte in it")
    if path == _HOME or path.startswith(f"{_HOME}/"):
        return home() / path.removeprefix(_HOME).lstrip("/")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"names no user's home ({error})") from error
