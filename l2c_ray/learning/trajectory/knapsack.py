"""A greedy knapsack: which units to compute within a limit on their cost."""

from torch import Tensor

_MOST_SWAPS = 2
"""Swaps in one update: importances depend on the neighbours' choices, so few may change at a time."""
_ROUNDING = 1e-12


class GreedyKnapsack:
    """Changes a mask in place so that the computed units matter more, within the limit.

    Units are ranked by density, their importance over their cost.
    """

    def __init__(self, mask: Tensor, densities: Tensor, costs: Tensor, limit: float) -> None:
        """All tensors have one shape; `limit` bounds the sum of the costs where `mask` is true."""
        self._mask = mask.view(-1)
        self._costs = costs.flatten().tolist()
        self._densities = densities.flatten().tolist()
        self._left: float = limit + _ROUNDING - (costs * mask).sum().item()
        self._dropped: set[int] = set()

    def drop(self) -> None:
        """Reuses the computed units of the lowest density, until the rest is within the limit."""
        for place in self._computed():
            if self._left >= 0:
                return
            self._set(place, computed=False)

    def swap(self) -> None:
        """Computes the reused units of the highest density in place of computed ones that matter less together."""
        wanted = [place for place in self._reused() if place not in self._dropped][:_MOST_SWAPS]
        for place in wanted:
            replaced = self._make_room(self._costs[place])
            if replaced is None or sum(map(self._importance, replaced)) >= self._importance(place):
                return
            for other in replaced:
                self._set(other, computed=False)
            self._set(place, computed=True)

    def fill(self) -> None:
        """Computes reused units as far as they fit, highest density first."""
        for place in self._reused():
            if place not in self._dropped and self._costs[place] <= self._left:
                self._set(place, computed=True)

    def _make_room(self, cost: float) -> list[int] | None:
        """The computed units of the lowest density that make room for the cost; None if all of them do not."""
        replaced = []
        missing = cost - self._left
        for place in self._computed():
            if missing <= 0:
                break
            replaced.append(place)
            missing -= self._costs[place]
        return replaced if missing <= 0 else None

    def _computed(self) -> list[int]:
        """Places of computed units, lowest density first."""
        computed: list[int] = self._mask.nonzero().flatten().tolist()
        return sorted(computed, key=self._densities.__getitem__)

    def _reused(self) -> list[int]:
        """Places of reused units, highest density first."""
        reused: list[int] = (~self._mask).nonzero().flatten().tolist()
        return sorted(reused, key=self._densities.__getitem__, reverse=True)

    def _importance(self, place: int) -> float:
        importance: float = self._densities[place] * self._costs[place]
        return importance

    def _set(self, place: int, *, computed: bool) -> None:
        self._mask[place] = computed
        self._left += -self._costs[place] if computed else self._costs[place]
        if not computed:
            self._dropped.add(place)
