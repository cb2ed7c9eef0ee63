"""The training loop of one process: a trial's own, or that of each Ray Train worker."""

from collections.abc import Callable
from typing import Literal

from l2c_ray.learning.learner import Learner
from l2c_ray.learning.progress import Progress
from l2c_ray.learning.updates import Average

Outcome = Literal["finished", "stopped", "diverged"]


def run_iterations(
    learner: Learner,
    average: Average,
    should_stop: Callable[[Progress], bool],
    checkpoint: Callable[[], None],
    checkpoint_every: int,
) -> Outcome:
    """Learns until the last iteration, a stop, or a loss that is not finite, which changes nothing.

    All workers of a run have to end at the same iteration.

    Args:
        average: the mean of a tensor over the run's workers.
        should_stop: called with the progress of every iteration.
        checkpoint: called every `checkpoint_every` iterations, but not after the last one.
    """
    while not learner.done:
        before = learner.iteration
        progress = learner.step(average)
        if learner.iteration == before:
            return "diverged"
        if should_stop(progress):
            return "stopped"
        if learner.iteration % checkpoint_every == 0 and not learner.done:
            checkpoint()
    return "finished"
