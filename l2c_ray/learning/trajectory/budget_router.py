"""The router of the trajectory objective: a mask over all steps within a budget, and forecast coefficients."""

import torch
from torch import Tensor, nn

from l2c_ray.learning.trajectory.knapsack import GreedyKnapsack
from l2c_ray.learning.trajectory.levenberg_marquardt import LevenbergMarquardt
from l2c_ray.learning.trajectory.swaps import Swaps
from l2c_ray.learning.trajectory.unit_costs import UnitCosts
from l2c_ray.schedule import Table

_MEMORY = 0.9
"""Decay of the running sums, which remember about ten iterations."""
_LONGEST_STEP = 0.05
"""Largest change of a coefficient in one iteration; a curvature seen once or twice may be far too small."""
_LARGEST_FIT = 2.0
"""Largest size of a coefficient at which a unit starts to be reused."""


class BudgetRouter(nn.Module):
    """A mask and forecast coefficients of every unit at every step but the first, which computes all.

    The importance of a unit is the rise of the error if it were reused; units are ranked by importance over cost. A
    reused unit gives `last + coefficient * (last - one before)`. While a unit is computed, its coefficient is the
    least-squares fit to its own values, where it starts once the unit is reused.
    """

    mask: Tensor
    """[steps - 1, units], true where a unit is computed."""
    coefficients: Tensor
    """[steps - 1, units]."""
    _importance: Tensor
    _difference_products: Tensor
    _difference_squares: Tensor
    _gradient: Tensor
    _curvature: Tensor
    """Decaying sums [steps - 1, units] of the arguments of `accumulate` and `descend`."""
    _costs: Tensor
    """[steps - 1, units], as shares of the baseline's cost."""

    def __init__(self, steps: int, costs: UnitCosts, *, forecast: bool = True) -> None:
        """Computes everything.

        Args:
            forecast: whether coefficients may be other than 0.
        """
        super().__init__()
        self._forecast = forecast
        shape = (steps - 1, len(costs.units))
        full = steps * (costs.shared + sum(costs.units))
        self.least_share = (steps * costs.shared + sum(costs.units)) / full
        """Share of the baseline's cost with every unit reused from step 1 on."""
        self.register_buffer("mask", torch.ones(shape, dtype=torch.bool))
        sums = ("_importance", "_difference_products", "_difference_squares", "_gradient", "_curvature")
        for name in ("coefficients", *sums):
            self.register_buffer(name, torch.zeros(shape))
        self._coefficient_fit = LevenbergMarquardt(self.mask.numel())
        self.swaps = Swaps()
        shares = torch.tensor(costs.units, dtype=torch.float64).expand(shape) / full
        self.register_buffer("_costs", shares.clone(), persistent=False)

    @property
    def share(self) -> float:
        """Share of the baseline's cost that the mask takes, in (0, 1]."""
        spent: float = (self._costs * self.mask).sum().item()
        return self.least_share + spent

    @torch.no_grad()
    def accumulate(self, importance: Tensor, difference_products: Tensor, difference_squares: Tensor) -> None:
        """Adds the statistics of a batch about all units, each [steps - 1, units].

        Args:
            importance: rise of the error if a unit is reused, compared with computing it, in any measure.
            difference_products: as in `GatedTrajectory`.
            difference_squares: as in `GatedTrajectory`.
        """
        for sums, new in (
            (self._importance, importance),
            (self._difference_products, difference_products),
            (self._difference_squares, difference_squares),
        ):
            sums.mul_(_MEMORY).add_(new)
        if not self._forecast:
            return
        squares = self._difference_squares
        fits = self._difference_products / squares.clamp_min(torch.finfo(squares.dtype).tiny)
        fits = fits.clamp(-_LARGEST_FIT, _LARGEST_FIT)
        self.coefficients.copy_(torch.where(self.mask, fits, self.coefficients))

    @torch.no_grad()
    def descend(self, gradient: Tensor, curvature: Tensor, rate: float) -> None:
        """Moves the coefficient of every reused unit a part of the way to its own optimum.

        Newton's method on the diagonal: steps shrink with the error, unlike those of sign-based optimizers.

        Args:
            gradient: gradient of the error by the coefficients, [steps - 1, units].
            curvature: half of its second derivative, at least 0, [steps - 1, units].
            rate: the part of the way, in (0, 1].
        """
        if not self._forecast:
            return
        for sums, new in ((self._gradient, gradient), (self._curvature, curvature)):
            sums.mul_(_MEMORY).add_(new)
            sums.mul_(~self.mask)
        steps = rate * self._gradient / (2 * self._curvature + torch.finfo(gradient.dtype).tiny)
        self.coefficients.sub_(steps.clamp(-_LONGEST_STEP, _LONGEST_STEP))

    @torch.no_grad()
    def accumulate_fit(self, gradient: Tensor, jacobian_rows: Tensor) -> None:
        """Adds the statistics of a batch about the coefficients of a fixed mask.

        Args:
            gradient: gradient of the error, [steps - 1, units].
            jacobian_rows: [rows, steps - 1, units], as in `LevenbergMarquardt.accumulate`.
        """
        self._coefficient_fit.accumulate(self.coefficients.flatten(), gradient.flatten(), jacobian_rows.flatten(1))

    @torch.no_grad()
    def fit_coefficients(self) -> None:
        """Moves the coefficients of all reused units to their joint optimum."""
        fitted = self._coefficient_fit.solve(self.coefficients.flatten(), ~self.mask.flatten())
        self.coefficients.copy_(fitted.view_as(self.mask))

    @torch.no_grad()
    def propose_swaps(self) -> None:
        """Proposes swaps at equal cost, to be measured."""
        self.swaps.propose(self.mask, self._importance, self._costs)

    @torch.no_grad()
    def start_from(self, mask: Tensor, coefficients: Tensor) -> None:
        """Takes a mask and, if it forecasts, its coefficients, and forgets the statistics of a fixed mask."""
        self.mask.copy_(mask)
        self.coefficients.copy_(coefficients if self._forecast else torch.zeros_like(coefficients))
        self._coefficient_fit.reset()
        self.swaps.reset()

    @torch.no_grad()
    def choose_mask(self, share: float) -> None:
        """Changes the mask to one that takes at most this share of the baseline's cost."""
        densities = self._importance / self._costs
        knapsack = GreedyKnapsack(self.mask, densities, self._costs, share - self.least_share)
        knapsack.drop()
        knapsack.swap()
        knapsack.fill()

    @torch.no_grad()
    def score_table(self) -> Tensor:
        """Rank of every choice by importance over cost, in [0, 1), [steps, units]; 1 at the first step."""
        ranks = (self._importance / self._costs).flatten().argsort().argsort() / self.mask.numel()
        return torch.cat([torch.ones(1, self.mask.shape[1]), ranks.view_as(self.mask).cpu()])


def table_of(mask: Tensor, coefficients: Tensor) -> Table:
    """The static graph that computes every unit at step 0 and where `mask` is true; both are [steps - 1, units]."""
    steps, units = mask.shape
    compute = [[1] * units, *mask.int().tolist()]
    forecast: list[list[tuple[float, ...]]] = [[()] * units]
    values = [1] * units
    for step in range(steps):
        row: list[tuple[float, ...]] = []
        for unit in range(units):
            reused = not compute[step + 1][unit]
            values[unit] += not reused
            coefficient = coefficients[step, unit].item()
            # There is no difference before two values, and none is needed where the coefficient is 0.
            row.append((coefficient,) if reused and values[unit] > 1 and coefficient else ())
        forecast.append(row)
    forecasts = tuple(map(tuple, forecast)) if any(map(any, forecast)) else None
    return Table.of(tuple(map(tuple, compute)), range(1, steps + 1), forecasts)
