"""Swaps at equal cost: which are proposed, and which measured gains are enough for them."""

import pytest
import torch
from torch import Tensor

from l2c_ray.learning.trajectory.swaps import Swaps

COSTS = torch.tensor([1.0, 2.0, 1.0, 2.0]).expand(3, 4)
MASK = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 1, 0]], dtype=torch.bool)
IMPORTANCE = torch.tensor([[0.9, 0.8, 0.5, 0.1], [0.2, 0.7, 0.8, 0.3], [0.4, 0.2, 0.6, 0.1]])


def proposed(mask: Tensor = MASK) -> Swaps:
    swaps = Swaps()
    swaps.propose(mask, IMPORTANCE, COSTS)
    return swaps


def tallies_of(swaps: Swaps, number: int, gains: list[float]) -> Tensor:
    tallies = torch.zeros_like(swaps.tallies)
    measured = torch.tensor(gains, dtype=torch.float64)
    tallies[number] = torch.stack([torch.tensor(len(measured)), measured.sum(), measured.square().sum()])
    return tallies


def test_least_important_computed_units_swap_with_most_important_reused() -> None:
    pairs = [tuple(pair) for pair in proposed().places.tolist() if pair[0] >= 0]
    # By gain: 0.7 for 0.3, 0.5 for 0.2, 0.4 for 0.6, 0.2 for 0.8; places count from the first row on.
    assert pairs == [(7, 5), (4, 2), (10, 8), (1, 9)]


def test_every_swap_keeps_the_cost() -> None:
    for _, mask in proposed().masks(MASK):
        assert (COSTS * mask).sum() == (COSTS * MASK).sum()
        assert (mask != MASK).sum() == 2


@pytest.mark.parametrize("everywhere", [True, False])
def test_nothing_is_proposed_where_all_units_have_the_same_choice(everywhere: bool) -> None:
    swaps = proposed(torch.full_like(MASK, everywhere))
    assert not swaps.pending
    assert not list(swaps.masks(MASK))


@pytest.mark.parametrize(
    ("gains", "happens"),
    [([0.1, 0.2, 0.15, 0.05], True), ([0.5, -0.45, 0.3, -0.3], False), ([-0.1, -0.2], False), ([0.3], False)],
)
def test_swap_is_made_if_images_gain_beyond_chance(gains: list[float], happens: bool) -> None:
    swaps, mask = proposed(), MASK.clone()
    kept, reused = swaps.places[1].tolist()
    swaps.accumulate(tallies_of(swaps, 1, gains))
    swaps.apply_proven(mask)
    assert not swaps.pending
    assert (mask != MASK).flatten().nonzero().flatten().tolist() == (sorted([kept, reused]) if happens else [])


def test_of_two_swaps_of_one_unit_the_better_one_is_made() -> None:
    swaps, mask = proposed(), MASK.clone()
    # Both touch the second unit.
    swaps.accumulate(tallies_of(swaps, 0, [0.2, 0.21]) + tallies_of(swaps, 3, [0.3, 0.31]))
    swaps.apply_proven(mask)
    assert (mask != MASK).flatten().nonzero().flatten().tolist() == [1, 9]


def test_search_goes_on_after_a_restart() -> None:
    swaps, again = proposed(), Swaps()
    swaps.accumulate(tallies_of(swaps, 1, [0.1, 0.2]))
    again.load_state_dict(swaps.state_dict())
    first, second = MASK.clone(), MASK.clone()
    swaps.apply_proven(first)
    again.apply_proven(second)
    assert torch.equal(first, second)
    assert not torch.equal(first, MASK)
