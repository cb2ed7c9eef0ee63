"""The folder of a run: the settings of its first session, and its checkpoints."""

import fnmatch
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor

from l2c_ray.distributed.worker import STATE_FILE
from l2c_ray.errors import CheckpointError, ConfigError
from l2c_ray.storage.files import home
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_store
from l2c_ray.storage.tensors import parse_tensors

SETTINGS_FILE = "settings.json"


def open_storage(given: str | None) -> ObjectStore:
    """The store with the folders of all runs: as given, else `$L2C_STORAGE`, else `$L2C_HOME/runs`.

    Raises:
        StorageError: it cannot be written to.
        UnreachableError: it does not answer.
    """
    store = open_store(given or os.environ.get("L2C_STORAGE") or str(home() / "runs"))
    store.check_writable()
    return store


def resume(runs: ObjectStore, name: str, settings: Mapping[str, Any], iterations: int) -> int:
    """Begins or resumes a run; returns the iterations that its checkpoints have done.

    Args:
        settings: settings that all sessions of the run must share.
        iterations: iterations of the finished run.

    Raises:
        ConfigError: the run was begun with other settings or has done more iterations, or the folder is not a run's.
    """
    place = f"{name}/{SETTINGS_FILE}"
    if runs.find(place):
        _compare(runs, name, settings)
    elif runs.names(name):
        problem = f"{runs.address}/{name} has something in it, but not what every run begins with"
        raise ConfigError("run.name", problem, "choose another name or remove that folder")
    done = _iterations_done(runs, name)
    if done > iterations:
        raise ConfigError(
            "training.iterations",
            f"run {name} has done {done} already, more than {iterations}",
            f"take at least {done}, or another run.name",
        )
    runs.put(place, (json.dumps(settings, indent=1) + "\n").encode())
    return done


def iterations_of(state: Mapping[str, Tensor]) -> int:
    """Iterations done in a learner's state.

    Raises:
        CheckpointError: it is no learner's state.
    """
    iteration = state.get("iteration")
    if iteration is None or iteration.shape or iteration.is_floating_point() or iteration < 0:
        problem = "is missing in the checkpoint, or no number"
        raise CheckpointError("iteration", problem, "remove what is no run's from its folder")
    return int(iteration)


def _compare(runs: ObjectStore, name: str, settings: Mapping[str, Any]) -> None:
    place = f"{name}/{SETTINGS_FILE}"
    try:
        before: dict[str, Any] = dict(json.loads(runs.get(place)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{runs.address}/{place}", f"is no run's ({error})", "choose another run.name or remove its folder"
        ) from error
    for key, value in settings.items():
        if before.get(key) != value:
            problem = f"run {name} was begun with {key} = {before.get(key)}, not {value}"
            raise ConfigError("run.name", problem, "choose another name or the same settings")


def _iterations_done(runs: ObjectStore, name: str) -> int:
    done = [0]
    for state in fnmatch.filter(runs.names(name), f"*/checkpoint_*/{STATE_FILE}"):
        # A checkpoint of older versions may be cut off; Ray Train goes on from a whole one.
        with suppress(CheckpointError):
            done.append(iterations_of(parse_tensors(runs.get(state), f"{runs.address}/{state}")))
    return max(done)
