"""What the folder of a run tells about it: the settings that it was begun with, and how far it has come."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from l2c_ray.distributed.worker import STATE_FILE
from l2c_ray.errors import CheckpointError, ConfigError
from l2c_ray.storage.files import read_text, write_text
from l2c_ray.storage.tensors import read_tensors

SETTINGS_FILE = "settings.json"


def go_on_with(folder: Path, settings: Mapping[str, Any], iterations: int) -> int:
    """Begins the run or goes on with it; gives the iterations that its checkpoints have done already.

    Args:
        folder: the run's own, made if missing; it has the run's name.
        settings: what may not change from one session of the run to the next.
        iterations: that the run shall have done in the end.

    Raises:
        ConfigError: the run was begun with other settings, or has done more iterations.
    """
    _compare(folder, settings)
    done = _iterations_done(folder)
    if done > iterations:
        raise ConfigError(
            "training.iterations",
            f"run {folder.name} has done {done} already, more than {iterations}",
            f"take at least {done}, or another run.name",
        )
    write_text(folder / SETTINGS_FILE, json.dumps(settings, indent=1) + "\n")
    return done


def iterations_of(state: Mapping[str, Tensor]) -> int:
    """Done when the learner had this state.

    Raises:
        CheckpointError: it is no learner's state.
    """
    if "iteration" not in state:
        raise CheckpointError("iteration", "is missing in the checkpoint", "remove what is no run's from its folder")
    return int(state["iteration"])


def _compare(folder: Path, settings: Mapping[str, Any]) -> None:
    if not (folder / SETTINGS_FILE).exists():
        return
    path = folder / SETTINGS_FILE
    try:
        before: dict[str, Any] = dict(json.loads(read_text(path)))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            str(path), f"is no run's ({error})", "choose another run.name or remove its folder"
        ) from error
    for key, value in settings.items():
        if before.get(key) != value:
            problem = f"run {folder.name} was begun with {key} = {before.get(key)}, not {value}"
            raise ConfigError("run.name", problem, "choose another name or the same settings")


def _iterations_done(folder: Path) -> int:
    done = [0]
    for path in folder.glob(f"checkpoint_*/{STATE_FILE}"):
        # A job that was killed may have left one half written; Ray Train goes on from a whole one.
        with suppress(CheckpointError):
            done.append(iterations_of(read_tensors(path)))
    return max(done)
