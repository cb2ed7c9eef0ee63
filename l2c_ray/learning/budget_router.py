"""A router over all steps that keeps within a budget: which units to compute, and how to forecast the others."""

import torch
from torch import Tensor, nn

from l2c_ray.learning.costs import UnitCosts
from l2c_ray.learning.refit import Refit
from l2c_ray.learning.swaps import Swaps
from l2c_ray.schedule import Table

_MEMORY = 0.9
"""Of the running means: they look back over about ten iterations."""
_MOST_SWAPS = 2
"""In one update: what a unit is worth depends on its neighbours, so few change places at a time."""
_LONGEST_STEP = 0.05
"""Of a coefficient in one iteration: a curvature seen once or twice may be far too small."""
_STEEPEST_FIT = 2.0
"""No coefficient starts beyond this."""


class BudgetRouter(nn.Module):
    """A mask and forecast coefficients of every unit at every step but the first, which computes all.

    A unit is worth what the error would rise by if it were reused, by its share of the full run's cost. As the share
    shrinks the units worth least are given up; and where a reused one is worth more than what it would take the
    place of, they swap. A reused unit is `last + coefficient * (last - one before)`; while a unit is computed, its
    coefficient is the one that would forecast its own value best, so that it starts from there when it is given up.
    """

    mask: Tensor
    """[steps - 1, units], true where a unit is computed."""
    coefficients: Tensor
    """[steps - 1, units]."""
    _worths: Tensor
    _changes: Tensor
    _slopes: Tensor
    _gradients: Tensor
    _curvatures: Tensor
    """Running sums [steps - 1, units], which fade; see `note` and `descend`."""
    _costs: Tensor
    """[steps - 1, units]: share of the full run's cost."""

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
        """What is computed even where every unit is reused from step 1 on."""
        self.register_buffer("mask", torch.ones(shape, dtype=torch.bool))
        for name in ("coefficients", "_worths", "_changes", "_slopes", "_gradients", "_curvatures"):
            self.register_buffer(name, torch.zeros(shape))
        self._refit = Refit(self.mask.numel())
        self.swaps = Swaps()
        shares = torch.tensor(costs.units, dtype=torch.float64).expand(shape) / full
        self.register_buffer("_costs", shares.clone(), persistent=False)

    @property
    def share(self) -> float:
        """Of the full run's cost that the mask takes."""
        spent: float = (self._costs * self.mask).sum().item()
        return self.least_share + spent

    @torch.no_grad()
    def note(self, worths: Tensor, changes: Tensor, slopes: Tensor) -> None:
        """Takes in what a trajectory told about every unit, each [steps - 1, units].

        Args:
            worths: how much the error rises if a unit is reused, compared with computing it, in any unit.
            changes, slopes: as `Student` notes them.
        """
        for sums, news in ((self._worths, worths), (self._changes, changes), (self._slopes, slopes)):
            sums.mul_(_MEMORY).add_(news)
        if not self._forecast:
            return
        fits = self._changes / self._slopes.clamp_min(torch.finfo(self._slopes.dtype).tiny)
        fits = fits.clamp(-_STEEPEST_FIT, _STEEPEST_FIT)
        self.coefficients.copy_(torch.where(self.mask, fits, self.coefficients))

    @torch.no_grad()
    def descend(self, gradient: Tensor, curvature: Tensor, rate: float) -> None:
        """Moves every reused unit's coefficient by a part of the way to where alone it would do best.

        Newton's method on the diagonal: the steps shrink with the error, as those of a method that looks at the sign
        of a gradient do not.

        Args:
            gradient: of the error by the coefficients, [steps - 1, units].
            curvature: half of its second derivative, of that shape and at least 0.
            rate: the part, in (0, 1].
        """
        if not self._forecast:
            return
        for sums, news in ((self._gradients, gradient), (self._curvatures, curvature)):
            sums.mul_(_MEMORY).add_(news)
            sums.mul_(~self.mask)
        steps = rate * self._gradients / (2 * self._curvatures + torch.finfo(gradient.dtype).tiny)
        self.coefficients.sub_(steps.clamp(-_LONGEST_STEP, _LONGEST_STEP))

    @torch.no_grad()
    def note_for_refit(self, gradient: Tensor, effects: Tensor) -> None:
        """Takes in what a trajectory told about the coefficients of a mask that stays.

        Args:
            gradient: of the error, [steps - 1, units].
            effects: [number, steps - 1, units], as of `Rollout.effects`.
        """
        self._refit.note(self.coefficients.flatten(), gradient.flatten(), effects.flatten(1))

    @torch.no_grad()
    def refit_coefficients(self) -> None:
        """Moves all reused units' coefficients to where together they do best by what was noted."""
        fitted = self._refit.solve(self.coefficients.flatten(), ~self.mask.flatten())
        self.coefficients.copy_(fitted.view_as(self.mask))

    @torch.no_grad()
    def propose_swaps(self) -> None:
        """Asks what the error would be if some units at the limit traded places."""
        self.swaps.propose(self.mask, self._worths, self._costs)

    @torch.no_grad()
    def start_from(self, mask: Tensor, coefficients: Tensor) -> None:
        """Takes these, the coefficients only if it forecasts, and forgets what was noted about a mask that stays."""
        self.mask.copy_(mask)
        self.coefficients.copy_(coefficients if self._forecast else torch.zeros_like(coefficients))
        self._refit.forget()
        self.swaps.forget()

    @torch.no_grad()
    def choose(self, share: float) -> None:
        """Spends at most `share` of the full run's cost from now on."""
        choice = _Choice(self.mask, self._worths / self._costs, self._costs, share - self.least_share)
        choice.give_up()
        choice.swap()
        choice.fill()

    @torch.no_grad()
    def score_table(self) -> Tensor:
        """Of all steps [steps, units]: the share of choices that are worth at most as much; 1 at the first step."""
        ranks = (self._worths / self._costs).flatten().argsort().argsort() / self.mask.numel()
        return torch.cat([torch.ones(1, self.mask.shape[1]), ranks.view_as(self.mask).cpu()])


def table_of(mask: Tensor, coefficients: Tensor) -> Table:
    """The static graph that computes every unit at step 0 and where `mask` [steps - 1, units] is true."""
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
            # There is no difference before two values, and none is looked for where the coefficient is 0.
            row.append((coefficient,) if reused and values[unit] > 1 and coefficient else ())
        forecast.append(row)
    forecasts = tuple(map(tuple, forecast)) if any(map(any, forecast)) else None
    return Table.of(tuple(map(tuple, compute)), range(1, steps + 1), forecasts)


class _Choice:
    """Changes a mask in place so that what it computes is worth more, within a limit on its costs."""

    def __init__(self, mask: Tensor, densities: Tensor, costs: Tensor, limit: float) -> None:
        """`densities` are the worths by cost; all tensors have one shape."""
        self._mask = mask.view(-1)
        self._costs = costs.flatten().tolist()
        self._densities = densities.flatten().tolist()
        self._left: float = limit + _ROUNDING - (costs * mask).sum().item()
        self._given_up: set[int] = set()

    def give_up(self) -> None:
        """The units worth least, until the rest is within the limit."""
        for place in self._cheapest_first():
            if self._left >= 0:
                return
            self._set(place, computed=False)

    def swap(self) -> None:
        """Reused units worth most for computed ones worth least, as far as it pays."""
        wanted = [place for place in self._dearest_first() if place not in self._given_up][:_MOST_SWAPS]
        for place in wanted:
            replaced = self._make_room(self._costs[place])
            if replaced is None or sum(map(self._worth, replaced)) >= self._worth(place):
                return
            for other in replaced:
                self._set(other, computed=False)
            self._set(place, computed=True)

    def fill(self) -> None:
        """What still fits, the most worth first."""
        for place in self._dearest_first():
            if place not in self._given_up and self._costs[place] <= self._left:
                self._set(place, computed=True)

    def _make_room(self, cost: float) -> list[int] | None:
        """The computed units worth least that make room for the cost; None if all of them do not."""
        replaced = []
        missing = cost - self._left
        for place in self._cheapest_first():
            if missing <= 0:
                break
            replaced.append(place)
            missing -= self._costs[place]
        return replaced if missing <= 0 else None

    def _cheapest_first(self) -> list[int]:
        computed: list[int] = self._mask.nonzero().flatten().tolist()
        return sorted(computed, key=self._densities.__getitem__)

    def _dearest_first(self) -> list[int]:
        reused: list[int] = (~self._mask).nonzero().flatten().tolist()
        return sorted(reused, key=self._densities.__getitem__, reverse=True)

    def _worth(self, place: int) -> float:
        worth: float = self._densities[place] * self._costs[place]
        return worth

    def _set(self, place: int, *, computed: bool) -> None:
        self._mask[place] = computed
        self._left += -self._costs[place] if computed else self._costs[place]
        if not computed:
            self._given_up.add(place)


_ROUNDING = 1e-12
