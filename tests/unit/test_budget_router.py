"""The mask that follows from importances, and the coefficients that forecasts start with."""

import pytest
import torch

from l2c_ray.learning.trajectory.budget_router import BudgetRouter, table_of
from l2c_ray.models.macs import UnitMacs

STEPS = 6
MACS = UnitMacs(units=(1, 2, 1, 2), shared=2)
FULL = MACS.of(((1,) * 4,) * STEPS).full
NOTHING = torch.zeros(STEPS - 1, 4)


def router_knowing(importance: torch.Tensor) -> BudgetRouter:
    router = BudgetRouter(STEPS, MACS)
    router.accumulate(importance, NOTHING, NOTHING)
    return router


def random_importance(seed: int = 0) -> torch.Tensor:
    return torch.rand(STEPS - 1, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("share", [1.0, 0.9, 0.7, 0.5])
def test_mask_fills_the_share_and_never_exceeds_it(share: float) -> None:
    router = router_knowing(random_importance())
    router.choose_mask(share)
    assert share - max(MACS.units) / FULL < router.share <= share
    assert router.share == pytest.approx(MACS.of(table_of(router.mask, router.coefficients).compute).share)


def test_nothing_is_left_at_the_least_share() -> None:
    router = router_knowing(random_importance())
    router.choose_mask(router.least_share)
    assert not router.mask.any()


def test_unit_of_most_importance_for_its_cost_stays() -> None:
    importance = NOTHING.clone()
    importance[3, 0], importance[2, 1] = 1.0, 1.5
    router = router_knowing(importance)
    # Room for one of them; the second matters more, but not for its cost.
    router.choose_mask(router.least_share + 1.5 / FULL)
    assert router.mask.nonzero().tolist() == [[3, 0]]


def test_reused_unit_whose_importance_grows_is_computed_again() -> None:
    importance = NOTHING.clone()
    importance[3, 0] = 1.0
    router = router_knowing(importance)
    share = router.least_share + 1 / FULL
    router.choose_mask(share)
    importance = NOTHING.clone()
    importance[1, 2] = 5.0
    router.accumulate(importance, NOTHING, NOTHING)
    router.choose_mask(share)
    assert router.mask.nonzero().tolist() == [[1, 2]]


def test_few_units_change_places_at_a_time() -> None:
    first, second = random_importance(1), random_importance(2)
    router = router_knowing(first)
    router.choose_mask(0.6)
    before = router.mask.clone()
    router.accumulate(100 * second, NOTHING, NOTHING)
    router.choose_mask(0.6)
    assert 0 < (router.mask & ~before).sum() <= 3


def test_coefficient_starts_at_the_least_squares_fit() -> None:
    products, squares = torch.full_like(NOTHING, 3.0), torch.full_like(NOTHING, 4.0)
    router = BudgetRouter(STEPS, MACS)
    router.accumulate(random_importance(), products, squares)
    assert torch.allclose(router.coefficients, torch.tensor(0.75))
    router.choose_mask(0.5)
    reused = ~router.mask
    router.accumulate(random_importance(), -products, squares)
    assert torch.allclose(router.coefficients[reused], torch.tensor(0.75))
    assert (router.coefficients[~reused] < 0.75).all()


def test_coefficients_of_reused_units_descend_to_a_minimum() -> None:
    router = router_knowing(random_importance())
    router.choose_mask(0.5)
    reused = ~router.mask
    minimum, curvature = 0.4, 7.0
    for _ in range(100):
        # The error is curvature * (coefficient - minimum)^2.
        gradient = 2 * curvature * (router.coefficients - minimum)
        router.descend(gradient, torch.full_like(NOTHING, curvature), rate=0.3)
    assert torch.allclose(router.coefficients[reused], torch.tensor(minimum), atol=0.01)
    assert not router.coefficients[~reused].any()


def test_forecast_begins_when_two_values_are_there() -> None:
    mask = torch.tensor([[False], [True], [False]])
    table = table_of(mask, torch.full((3, 1), 0.5))
    assert [row[0] for row in table.compute] == [1, 0, 1, 0]
    assert table.forecast == (((),), ((),), ((),), ((0.5,),))


def test_scores_rank_the_choices() -> None:
    router = router_knowing(random_importance())
    scores = router.score_table()
    assert scores.shape == (STEPS, 4)
    assert (scores[0] == 1).all()
    assert scores.min() >= 0
    assert scores.max() <= 1
