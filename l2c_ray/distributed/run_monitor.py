"""The actor through which workers report progress to their driver and learn that they should stop.

It runs in a process of its own, which is why it imports no torch.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import ActorAlreadyExistsError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from l2c_ray.errors import ConfigError
from l2c_ray.learning.progress import Progress

_NAMESPACE = "l2c"
_DEAD_DRIVER_SECONDS = 5
"""Ray may take this long to notice that the driver of a named actor is dead."""


class RunMonitor:
    """Progress and stop requests of a run, or of several trials by number; a run that is no trial has number 0.

    The driver alone speaks to MLflow, so that workers need none of its secrets.
    """

    def __init__(self) -> None:
        self._progress: defaultdict[int, list[Progress]] = defaultdict(list)
        self._stopped: set[int] = set()

    def report(self, progress: Sequence[Progress], trial: int = 0) -> bool:
        """Takes in what the first worker of a run reports; returns whether the run should stop."""
        self._progress[trial] += progress
        return trial in self._stopped

    def take(self) -> dict[int, list[Progress]]:
        """All progress since the last call, by trial."""
        taken, self._progress = dict(self._progress), defaultdict(list)
        return taken

    def stop(self, trial: int = 0) -> None:
        """Has the next report of the run answered with a request to stop."""
        self._stopped.add(trial)


def start_monitor(**options: Any) -> Any:
    """Handle of a new `RunMonitor` on this node, which takes no CPU from the workers; `options` are Ray's own."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(RunMonitor).options(num_cpus=0, scheduling_strategy=here, **options).remote()


@contextmanager
def open_monitor(run_name: str, wait_seconds: float = _DEAD_DRIVER_SECONDS) -> Iterator[Any]:
    """Starts the monitor of a run, which ends with the context or the driver.

    It carries the run's name, so that no two jobs of a cluster work on one run.

    Args:
        wait_seconds: how long to wait for the end of another job that works on the run.

    Raises:
        ConfigError: another job is working on the run.
    """
    monitor = _start_named(run_name, wait_seconds)
    try:
        yield monitor
    finally:
        ray.kill(monitor)


def _start_named(run_name: str, wait_seconds: float) -> Any:
    name = f"l2c-run-{run_name}"
    deadline = time.monotonic() + wait_seconds
    while True:
        # Asked first, since Ray fails on a name whose driver is dead and whose code is gone already.
        if {"name": name, "namespace": _NAMESPACE} not in list_named_actors(all_namespaces=True):
            with suppress(ActorAlreadyExistsError):
                return start_monitor(name=name, namespace=_NAMESPACE, max_restarts=-1, max_task_retries=-1)
        if time.monotonic() > deadline:
            problem = f"another job is working on run {run_name}"
            raise ConfigError("run.name", problem, "wait for it, stop it, or choose another name")
        time.sleep(0.2)
