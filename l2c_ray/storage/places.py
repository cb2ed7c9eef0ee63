"""Paths as users write them: made absolute, and refused if a job would lose them with its folder."""

import os
from collections.abc import Mapping
from pathlib import Path

from l2c_ray.errors import ConfigError
from l2c_ray.storage.files import from_root, home

_HOME = "$L2C_HOME"

_SET_BY_RAY = ("RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_RAYLET_PID")
"""Set by Ray: the first (really its name) for what `ray job submit` runs, the second for workers, as of Ray Serve."""

LOST = "is relative, and what a job writes to its own folder on the cluster is lost with that folder"
WAY_OUT = "give a path from the root on"


def absolute(path: str, folder: Path = Path()) -> Path:
    """The absolute path; a relative one is taken from `folder`.

    A leading `~` or `$L2C_HOME` stands for that folder.

    Raises:
        ValueError: it is not a valid path.
        StorageError: it is relative to a working folder that was deleted.
    """
    return from_root(folder / _expanded(path))


def is_a_job(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the process runs in a temporary copy of a submitted folder, as jobs and workers of Ray do."""
    return any(name in environment for name in _SET_BY_RAY)


def is_lost(path: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether content written there is lost with the temporary folder of a job.

    Raises:
        ValueError: it is not a valid path.
    """
    return is_a_job(environment) and not _expanded(path).is_absolute()


def require_lasting(subject: str, path: str, environment: Mapping[str, str] = os.environ) -> None:
    """Refuses a place to write to that a job would lose; `subject` names it in the error.

    Raises:
        ConfigError: the job would lose it.
        ValueError: it is not a valid path.
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
