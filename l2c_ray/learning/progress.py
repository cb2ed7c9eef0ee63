"""Progress of a learning run, without torch: processes that only forward it start in a third of the time."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One iteration, averaged over the workers."""

    iteration: int
    """Iterations done, 1..iterations."""
    error: float
    """Mean squared error of outputs under the router to those of the baseline."""
    loss: float
    """The minimised quantity: the error or its logarithm, and the other terms of the objective."""
    mean_score: float
    """Mean score of the units at the cache steps, in [0, 1]: the share that is still computed, softly."""
