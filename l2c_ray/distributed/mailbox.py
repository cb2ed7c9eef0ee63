"""How the driver and the first worker talk while a run goes on: progress one way, the wish to stop the other way."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from l2c_ray.learning.learner import Progress


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


def open_mailbox() -> Any:
    """A handle of a new mailbox; it takes no CPU from the workers."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
