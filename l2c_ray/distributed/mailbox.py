"""How a driver and its workers talk while a run or a trial goes on: progress one way, the wish to stop the other way.

The actors import no torch: each is a process of its own.
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
_CLAIM_SECONDS = 5
"""Ray may take as long to notice that the driver that had the name is dead."""


class Mailbox:
    """An actor on the driver's node. The driver alone speaks to MLflow, so workers need no secret of it."""

    def __init__(self) -> None:
        self._progress: list[Progress] = []
        self._stop = False

    def post(self, progress: Progress) -> bool:
        """From the first worker; the answer is whether the run should stop."""
        self._progress.append(progress)
        return self._stop

    def take(self) -> list[Progress]:
        """To the driver: what was posted since it last asked."""
        taken, self._progress = self._progress, []
        return taken

    def request_stop(self) -> None:
        self._stop = True


class Board:
    """An actor on the driver's node: how its trials are doing, and which are to stop."""

    def __init__(self) -> None:
        self._progress: defaultdict[int, list[Progress]] = defaultdict(list)
        self._stopped: set[int] = set()

    def post(self, number: int, progress: Sequence[Progress]) -> bool:
        """From a trial; the answer is whether it should stop."""
        self._progress[number] += progress
        return number in self._stopped

    def take(self) -> dict[int, list[Progress]]:
        """To the driver: what was posted since it last asked."""
        taken, self._progress = dict(self._progress), defaultdict(list)
        return taken

    def stop(self, number: int) -> None:
        self._stopped.add(number)


@contextmanager
def open_mailbox(run_name: str, patience: float = _CLAIM_SECONDS) -> Iterator[Any]:
    """A handle of the run's mailbox, which ends with the context or the driver; it takes no CPU from the workers.

    It carries the run's name, so that no two jobs of a cluster work on one run; another one's end is waited for, so
    many seconds at most.

    Raises:
        ConfigError: another job is working on the run.
    """
    mailbox = _claim(run_name, patience)
    try:
        yield mailbox
    finally:
        ray.kill(mailbox)


def _claim(run_name: str, patience: float) -> Any:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    name = f"l2c-run-{run_name}"
    actor = ray.remote(Mailbox).options(
        name=name,
        namespace=_NAMESPACE,
        num_cpus=0,
        scheduling_strategy=here,
        max_restarts=-1,
        max_task_retries=-1,
    )
    deadline = time.monotonic() + patience
    while True:
        # Asked first, since Ray stumbles over a name whose driver is dead and whose code is gone already.
        if {"name": name, "namespace": _NAMESPACE} not in list_named_actors(all_namespaces=True):
            with suppress(ActorAlreadyExistsError):
                return actor.remote()
        if time.monotonic() > deadline:
            problem = f"another job is working on run {run_name}"
            raise ConfigError("run.name", problem, "wait for it, stop it, or choose another name")
        time.sleep(0.2)
