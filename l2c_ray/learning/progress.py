"""The news of a learning run, without torch: what only hands it on takes a third of the time to start."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """What one iteration saw, averaged over the workers."""

    iteration: int
    """Iterations done, 1..iterations."""
    error: float
    """Mean squared error of what ran by the router to the full evaluation."""
    loss: float
    """What was made smaller: the error, or its logarithm, and what else the objective asks for."""
    mean_score: float
    """Of all units at the cache steps: the share of them that is still computed, softly."""
