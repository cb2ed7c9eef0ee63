"""Closing in on an error: which shares are tried, and which schedule it comes to."""

import math

import pytest
import torch
from unit_factories import learn_config

from l2c_ray.errors import ConfigError
from l2c_ray.learning.course import Course, ErrorCeiling, Found, GivenBudgets, make_course

NOTHING = torch.zeros(0)
FULL = Found(NOTHING, NOTHING, 1.0, 0.0)


def shares_tried(course: Course, slope: float) -> list[Found]:
    """Of a frontier on which the error is e to the `slope` times what is saved."""
    found = [FULL]
    for _ in range(course.phases):
        share = course.next(found).target
        found.append(Found(NOTHING, NOTHING, share, 1e-6 * math.exp(slope * (1 - share))))
    return found


def test_budgets_are_taken_in_turn_each_from_where_the_one_before_ended() -> None:
    course = GivenBudgets([0.8, 0.5])
    found = [FULL]
    for budget in (0.8, 0.5):
        phase = course.next(found)
        assert (phase.start, phase.target) == (found[-1], budget)
        found.append(Found(NOTHING, NOTHING, budget - 0.01, math.nan))
    assert course.results(found) == found[1:]


@pytest.mark.parametrize("slope", [6.0, 8.0, 12.0])
def test_share_closes_in_on_where_the_error_reaches_the_ceiling(slope: float) -> None:
    ceiling = 1e-4
    course = ErrorCeiling(ceiling, least_share=0.05)
    (best,) = course.results(shares_tried(course, slope))
    where = 1 - math.log(ceiling / 1e-6) / slope
    assert best.error <= ceiling
    assert where <= best.share < where + 0.02


def test_phase_after_a_failed_one_starts_from_the_cheapest_that_kept_below() -> None:
    course = ErrorCeiling(1e-4, least_share=0.05)
    good, failed = Found(NOTHING, NOTHING, 0.7, 1e-5), Found(NOTHING, NOTHING, 0.5, 1e-3)
    phase = course.next([FULL, good, failed])
    assert phase.start is good
    assert phase.target == pytest.approx(0.6)


def test_error_that_every_share_keeps_below_leads_to_the_least_one() -> None:
    course = ErrorCeiling(1.0, least_share=0.3)
    assert course.results(shares_tried(course, 1.0))[0].share == 0.3


def test_error_that_no_reuse_keeps_below_leads_to_the_full_run() -> None:
    course = ErrorCeiling(1e-9, least_share=0.1)
    assert course.results(shares_tried(course, 5.0)) == [FULL]


def test_error_that_is_not_finite_is_a_failure() -> None:
    course = ErrorCeiling(1e-4, least_share=0.1)
    found = [FULL, Found(NOTHING, NOTHING, 0.8, math.inf), Found(NOTHING, NOTHING, 0.9, math.nan)]
    assert course.results(found) == [FULL]
    assert course.next(found).target == pytest.approx(0.95)


def test_time_budget_below_what_cannot_be_reused_is_refused_by_its_own_key() -> None:
    for key in ("budget", "time_budget"):
        router = {"lambda": None, key: 0.1}
        if key == "time_budget":
            router["profile"] = {
                "model": "m",
                "device": "d",
                "dtype": "float32",
                "batch_size": 1,
                "units": {"u": 1.0},
                "shared": 1.0,
            }
        with pytest.raises(ConfigError, match=rf"router\.{key}: 0.1 is less than 0.2"):
            make_course(learn_config(router=router).router, 0.2)
