"""The router: one logit for every unit at every step that may reuse (L2C, arXiv 2406.01733, section 3.3)."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from l2c_ray.schedule import Table


class Router(nn.Module):
    """Input-invariant and timestep-variant: its scores depend on the step alone.

    As in the paper, every other step may reuse; the others compute all units and refresh the cache of the step after
    them. Each row of logits is a parameter of its own, so that an optimizer with momentum leaves
    the rows alone that an iteration did not touch.
    """

    def __init__(self, steps: int, units: int, cache_steps: Sequence[int], initial_logit: float) -> None:
        super().__init__()
        self.steps = steps
        self.units = units
        self.cache_steps = tuple(cache_steps)
        self._rows = nn.ParameterDict(
            {str(step): nn.Parameter(torch.full((units,), initial_logit)) for step in self.cache_steps}
        )

    def row(self, step: int) -> nn.Parameter:
        """The logits [units] of a cache step."""
        row: nn.Parameter = self._rows[str(step)]
        return row

    def scores(self, step: int) -> Tensor:
        """Beta = sigmoid(logit) in (0, 1), [units]: how much of each unit is computed at a cache step."""
        return torch.sigmoid(self.row(step))

    @torch.no_grad()
    def score_table(self) -> Tensor:
        """Scores of all steps [steps, units]; 1 where a step always computes."""
        table = torch.ones(self.steps, self.units)
        for step in self.cache_steps:
            table[step] = self.scores(step)
        return table

    def threshold(self, *thetas: float) -> Table:
        """The static graph: compute where the score is above theta, and at every step that may not reuse.

        Args:
            thetas: one for each phase of the trajectory; the phases have the same length.
        """
        scores = self.score_table()
        mask = tuple(
            tuple(
                int(step not in self.cache_steps or score > thetas[step * len(thetas) // self.steps])
                for score in scores[step].tolist()
            )
            for step in range(self.steps)
        )
        return Table.of(mask, self.cache_steps)

    def within(self, budget: float, share_of: Callable[[Table], float]) -> tuple[float, Table] | None:
        """The threshold that computes the most of what is within the budget, and its graph; None where none is.

        Args:
            budget: share of the full run's compute.
            share_of: what a graph takes of it; less, the less is computed.
        """
        thetas = sorted({0.0, *(score for step in self.cache_steps for score in self.scores(step).tolist())})
        first = bisect_left(thetas, True, key=lambda theta: share_of(self.threshold(theta)) <= budget)
        return (thetas[first], self.threshold(thetas[first])) if first < len(thetas) else None
