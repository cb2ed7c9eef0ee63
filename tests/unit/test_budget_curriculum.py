"""The stages of a curriculum: their shares and iterations, and the results that become schedules."""

import math

import pytest
import torch
from unit_factories import learn_config

from l2c_ray.errors import ConfigError
from l2c_ray.learning.trajectory.budget_curriculum import (
    BudgetCurriculum,
    ErrorCeiling,
    GivenBudgets,
    StageResult,
    make_curriculum,
)

NOTHING = torch.zeros(0)
BASELINE = StageResult(NOTHING, NOTHING, 1.0, 0.0)
ITERATIONS = 20


def error_ceiling(ceiling: float, least_share: float) -> ErrorCeiling:
    return ErrorCeiling(ceiling, least_share, ITERATIONS)


def run_stages(curriculum: BudgetCurriculum, growth: float) -> list[StageResult]:
    """Results on a frontier whose error is 1e-6 times e to the `growth` times the share that is saved."""
    results = [BASELINE]
    for _ in range(curriculum.stages):
        share = curriculum.next(results).target
        results.append(StageResult(NOTHING, NOTHING, share, 1e-6 * math.exp(growth * (1 - share))))
    return results


def test_each_budget_starts_from_the_result_of_the_one_before() -> None:
    curriculum = GivenBudgets([0.8, 0.5], ITERATIONS)
    results = [BASELINE]
    for budget in (0.8, 0.5):
        stage = curriculum.next(results)
        assert (stage.start, stage.target) == (results[-1], budget)
        results.append(StageResult(NOTHING, NOTHING, budget - 0.01, math.nan))
    assert curriculum.outcome(results) == results[1:]


def test_stages_share_all_iterations() -> None:
    curriculum = GivenBudgets([0.9, 0.8, 0.7], 13)
    stages = [curriculum.next([BASELINE] * number) for number in (1, 2, 3)]
    assert [iteration for stage in stages for iteration in stage.iterations] == list(range(13))
    for stage in stages:
        done = [stage.progress(iteration) for iteration in stage.iterations]
        assert done == sorted(done)
        assert done[-1] == 1
        assert stage.progress(stage.iterations.start - 1) == 0


@pytest.mark.parametrize("growth", [6.0, 8.0, 12.0])
def test_share_closes_in_on_where_the_error_reaches_the_ceiling(growth: float) -> None:
    ceiling = 1e-4
    curriculum = error_ceiling(ceiling, least_share=0.05)
    (best,) = curriculum.outcome(run_stages(curriculum, growth))
    where = 1 - math.log(ceiling / 1e-6) / growth
    assert best.error <= ceiling
    assert where <= best.share < where + 0.02


def test_stage_after_a_failed_one_starts_from_the_cheapest_success() -> None:
    curriculum = error_ceiling(1e-4, least_share=0.05)
    good, failed = StageResult(NOTHING, NOTHING, 0.7, 1e-5), StageResult(NOTHING, NOTHING, 0.5, 1e-3)
    stage = curriculum.next([BASELINE, good, failed])
    assert stage.start is good
    assert stage.target == pytest.approx(0.6)


def test_ceiling_above_all_errors_leads_to_the_least_share() -> None:
    curriculum = error_ceiling(1.0, least_share=0.3)
    assert curriculum.outcome(run_stages(curriculum, 1.0))[0].share == 0.3


def test_ceiling_below_all_errors_leads_to_the_baseline() -> None:
    curriculum = error_ceiling(1e-9, least_share=0.1)
    assert curriculum.outcome(run_stages(curriculum, 5.0)) == [BASELINE]


def test_error_that_is_not_finite_is_above_the_ceiling() -> None:
    curriculum = error_ceiling(1e-4, least_share=0.1)
    broken = [StageResult(NOTHING, NOTHING, 0.8, math.inf), StageResult(NOTHING, NOTHING, 0.9, math.nan)]
    assert curriculum.outcome([BASELINE, *broken]) == [BASELINE]
    assert curriculum.next([BASELINE, *broken]).target == pytest.approx(0.95)


def test_budget_below_what_cannot_be_reused_is_refused_by_its_key() -> None:
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
            make_curriculum(learn_config(router=router).router, 0.2, ITERATIONS)
