"""The paper's router: one logit for every unit at every cache step (L2C, arXiv 2406.01733, section 3.3)."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from l2c_ray.schedule import Table


class Router(nn.Module):
    """Scores that depend on the step, and not on the input.

    As in the paper, every other step is a cache step; the others compute all units and refresh the cache. Each row of
    logits is a parameter of its own, so that an optimizer with momentum leaves the rows of other steps alone.
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
        """The scores beta = sigmoid(logit) in (0, 1), [units], of a cache step: how much of each unit is computed."""
        return torch.sigmoid(self.row(step))

    @torch.no_grad()
    def score_table(self) -> Tensor:
        """Scores of all steps, [steps, units]; 1 where a step always computes."""
        table = torch.ones(self.steps, self.units)
        for step in self.cache_steps:
            table[step] = self.scores(step)
        return table

    def threshold(self, *thetas: float) -> Table:
        """The static graph that computes where the score is above theta, and at every step that is no cache step.

        Args:
            thetas: in [0, 1], one for each of as many phases of the trajectory, which have the same length.
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
        """The threshold that computes the most within the budget, and its graph; None if no threshold keeps within it.

        Args:
            budget: share of the baseline's compute, in (0, 1].
            share_of: the compute share of a graph, which falls with what it computes.
        """
        thetas = sorted({0.0, *(score for step in self.cache_steps for score in self.scores(step).tolist())})
        first = bisect_left(thetas, True, key=lambda theta: share_of(self.threshold(theta)) <= budget)
        return (thetas[first], self.threshold(thetas[first])) if first < len(thetas) else None
