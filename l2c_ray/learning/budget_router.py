"""A router over all steps that fills a budget: which units to compute, and how to forecast the others."""

import torch
from torch import Tensor, nn

from l2c_ray.models.macs import UnitMacs
from l2c_ray.schedule import Table


class BudgetRouter(nn.Module):
    """Logits and forecast coefficients of every unit at every step but the first, which computes all.

    The units with the highest logits are computed, as many as a share of the full run's multiply-accumulates buys.
    A reused unit is `last + coefficient * (last - one before)`; a coefficient of 0 takes the last value as it is.
    """

    _costs: Tensor
    """[(steps - 1) * units] share of the full run's multiply-accumulates."""

    def __init__(self, steps: int, macs: UnitMacs) -> None:
        super().__init__()
        full = steps * (macs.shared + sum(macs.units))
        self.logits = nn.Parameter(torch.zeros(steps - 1, len(macs.units)))
        self.coefficients = nn.Parameter(torch.zeros(steps - 1, len(macs.units)))
        self.least_share = (steps * macs.shared + sum(macs.units)) / full
        """What is computed even where every unit is reused from step 1 on."""
        costs = torch.tensor(macs.units, dtype=torch.float64).repeat(steps - 1) / full
        self.register_buffer("_costs", costs, persistent=False)

    def gates(self, share: float) -> Tensor:
        """[steps - 1, units] of 1 (compute) and 0, at most `share` in all; its gradient is that of the scores.

        The straight-through estimator (arXiv 1308.3432): the hard choice runs, the soft one learns.
        """
        scores = torch.sigmoid(self.logits)
        return self._chosen(share) + scores - scores.detach()

    @torch.no_grad()
    def table(self, share: float) -> Table:
        """The static graph within `share`."""
        steps, units = self.logits.shape
        mask = [[1] * units, *self._chosen(share).int().tolist()]
        forecast: list[list[tuple[float, ...]]] = [[()] * units]
        computed = [1] * units
        for step in range(steps):
            row: list[tuple[float, ...]] = []
            for unit in range(units):
                reused = not mask[step + 1][unit]
                computed[unit] += not reused
                # There is no difference before two values.
                coefficient = self.coefficients[step, unit].item()
                row.append((coefficient,) if reused and computed[unit] > 1 else ())
            forecast.append(row)
        return Table.of(tuple(map(tuple, mask)), range(1, steps + 1), tuple(map(tuple, forecast)))

    @torch.no_grad()
    def score_table(self) -> Tensor:
        """Scores of all steps [steps, units]; 1 at the first."""
        scores = torch.sigmoid(self.logits)
        return torch.cat([torch.ones_like(scores[:1]), scores]).cpu()

    @torch.no_grad()
    def _chosen(self, share: float) -> Tensor:
        """From the highest logit down, whatever still fits."""
        order = self.logits.flatten().argsort(descending=True, stable=True)
        fits = self._costs[order].cumsum(0) <= share - self.least_share + _ROUNDING
        chosen = torch.zeros_like(self.logits).flatten()
        chosen[order[fits]] = 1
        return chosen.view_as(self.logits)


_ROUNDING = 1e-12
