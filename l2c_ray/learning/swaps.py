"""A bounded local search on a mask that stays: units that trade places at equal cost, on the true error."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

_MOST = 8
"""Swaps in one search: each is a run of the schedule for every image."""
_STANDARD_ERRORS = 2.0
"""By which a swap must do better than none."""


class Swaps(nn.Module):
    """Swaps that are looked into, and what came of them; `l2c_ray.learning.BudgetRouter` has one.

    What a unit is worth is an estimate to second order. Near the limit between what is computed and what is reused,
    a run of the schedule itself tells better.
    """

    places: Tensor
    """[swaps, 2]: a computed choice and a reused one, as numbers into a flat mask; -1 where there is no swap."""
    tallies: Tensor
    """[swaps, 3]: images that were run, sum of their gains, sum of the gains' squares."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.full((_MOST, 2), -1))
        self.register_buffer("tallies", torch.zeros(_MOST, 3, dtype=torch.float64))

    @property
    def pending(self) -> bool:
        """Whether there are swaps whose outcome is open."""
        return bool((self.places >= 0).any())

    def propose(self, mask: Tensor, worths: Tensor, costs: Tensor) -> None:
        """Takes the most promising swaps, none of which shares a choice with another.

        Args:
            mask, worths, costs: as `BudgetRouter` has them, [steps - 1, units].
        """
        self.forget()
        computed, worth = mask.flatten(), worths.flatten()
        by_worth = worth.argsort()
        found: list[tuple[float, int, int]] = []
        for cost in costs.unique():
            equal = by_worth[(costs.flatten() == cost)[by_worth]]
            cheapest, dearest = equal[computed[equal]][:_MOST], equal[~computed[equal]].flip(0)[:_MOST]
            gains = worth[dearest[: len(cheapest)]] - worth[cheapest[: len(dearest)]]
            found += zip(gains.tolist(), cheapest.tolist(), dearest.tolist(), strict=False)
        for number, (_, kept, reused) in enumerate(sorted(found, reverse=True)[:_MOST]):
            self.places[number] = torch.tensor([kept, reused])

    def masks(self, mask: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Each swap's number, and `mask` with it."""
        for number, (kept, reused) in enumerate(self.places.tolist()):
            if kept >= 0:
                swapped = mask.flatten().clone()
                swapped[kept], swapped[reused] = False, True
                yield number, swapped.view_as(mask)

    def note(self, tallies: Tensor) -> None:
        """Takes in what some images told, as `tallies` has it."""
        self.tallies += tallies

    def settle(self, mask: Tensor) -> None:
        """Makes the swaps in `mask` that do better beyond chance, one in each unit at most, and forgets the others.

        A unit's choices depend on each other, so that two that gain alone may lose together.
        """
        units = mask.shape[1]
        changed: set[int] = set()
        for _, kept, reused in sorted(self._proven(), reverse=True):
            touched = {kept % units, reused % units}
            if not touched & changed:
                mask.view(-1)[kept], mask.view(-1)[reused] = False, True
                changed |= touched
        self.forget()

    def forget(self) -> None:
        """All swaps."""
        self.places.fill_(-1)
        self.tallies.zero_()

    def _proven(self) -> Iterator[tuple[float, int, int]]:
        """The mean gains of swaps that do better, and their places."""
        for (kept, reused), (images, gains, squares) in zip(self.places.tolist(), self.tallies.tolist(), strict=True):
            if kept >= 0 and images > 1:
                mean = gains / images
                deviation = math.sqrt(max(0.0, squares / images - mean**2) / (images - 1))
                if mean > _STANDARD_ERRORS * deviation:
                    yield mean, kept, reused
