"""A bounded local search around a mask: pairs of units of equal cost trade places where that lowers the true error."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

_MOST = 8
"""Swaps in one search; each costs a run of the schedule for every image."""
_STANDARD_ERRORS = 2.0
"""Standard errors by which the mean gain of a swap must exceed 0."""


class Swaps(nn.Module):
    """Proposed swaps with the gains measured so far.

    The importance of a unit is a second-order estimate. Near the boundary between computed and reused units, running
    the swapped schedule is more reliable.
    """

    places: Tensor
    """[swaps, 2]: a computed choice and a reused one, as indices of a flat mask; -1 where there is no swap."""
    tallies: Tensor
    """[swaps, 3]: images measured, sum of their gains, sum of the squared gains."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.full((_MOST, 2), -1))
        self.register_buffer("tallies", torch.zeros(_MOST, 3, dtype=torch.float64))

    @property
    def pending(self) -> bool:
        """Whether there are proposed swaps."""
        return bool((self.places >= 0).any())

    def propose(self, mask: Tensor, importance: Tensor, costs: Tensor) -> None:
        """Replaces all swaps by the most promising ones, none of which share a choice.

        Args:
            mask: [steps - 1, units], true where a unit is computed.
            importance: as in `BudgetRouter`, [steps - 1, units].
            costs: [steps - 1, units].
        """
        self.reset()
        computed, values = mask.flatten(), importance.flatten()
        by_importance = values.argsort()
        found: list[tuple[float, int, int]] = []
        for cost in costs.unique():
            equal = by_importance[(costs.flatten() == cost)[by_importance]]
            lowest, highest = equal[computed[equal]][:_MOST], equal[~computed[equal]].flip(0)[:_MOST]
            gains = values[highest[: len(lowest)]] - values[lowest[: len(highest)]]
            found += zip(gains.tolist(), lowest.tolist(), highest.tolist(), strict=False)
        for number, (_, kept, reused) in enumerate(sorted(found, reverse=True)[:_MOST]):
            self.places[number] = torch.tensor([kept, reused])

    def masks(self, mask: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The number of each swap, and `mask` with it."""
        for number, (kept, reused) in enumerate(self.places.tolist()):
            if kept >= 0:
                swapped = mask.flatten().clone()
                swapped[kept], swapped[reused] = False, True
                yield number, swapped.view_as(mask)

    def accumulate(self, tallies: Tensor) -> None:
        """Adds the tallies [swaps, 3] of some images."""
        self.tallies += tallies

    def apply_proven(self, mask: Tensor) -> None:
        """Makes the significant swaps in `mask`, best first and at most one for each unit, and forgets the others.

        A unit's choices at different steps depend on each other: two swaps that each gain alone may lose together.
        """
        units = mask.shape[1]
        changed: set[int] = set()
        for _, kept, reused in sorted(self._proven(), reverse=True):
            touched = {kept % units, reused % units}
            if not touched & changed:
                mask.view(-1)[kept], mask.view(-1)[reused] = False, True
                changed |= touched
        self.reset()

    def reset(self) -> None:
        """Forgets all swaps."""
        self.places.fill_(-1)
        self.tallies.zero_()

    def _proven(self) -> Iterator[tuple[float, int, int]]:
        """Mean gain and both places of every significant swap."""
        for (kept, reused), (images, gains, squares) in zip(self.places.tolist(), self.tallies.tolist(), strict=True):
            if kept >= 0 and images > 1:
                mean = gains / images
                deviation = math.sqrt(max(0.0, squares / images - mean**2) / (images - 1))
                if mean > _STANDARD_ERRORS * deviation:
                    yield mean, kept, reused
