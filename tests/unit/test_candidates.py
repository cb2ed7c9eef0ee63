from collections.abc import Sequence
from pathlib import Path

import pytest
from unit_factories import GUIDANCE, cost, measured_schedule, small_schedule, tiny_dit, tiny_pipeline

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.errors import ConfigError, ScheduleError
from l2c_ray.evaluation import shipped
from l2c_ray.evaluation.candidates import (
    frontier_candidates,
    standard_candidates,
    steps_over_the_curve,
)
from l2c_ray.evaluation.shipped import shipped_schedules
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.policies.rules import RULES, chosen_rules, every_rule
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance, Schedule


def costing(cached: int) -> Schedule:
    return small_schedule(cost=cost(cached, full=1000))


def sampled_by(sampler: str, steps: int) -> Pipeline:
    model = tiny_dit()
    return Pipeline(model, make_solver(sampler, steps, model), GUIDANCE)


@pytest.mark.parametrize(
    ("cached", "steps"),
    [([620], [12]), ([550], [11]), ([600], [12]), ([599], [11]), ([40], [1]), ([620, 350, 629], [12, 7])],
)
def test_fewer_steps_are_as_many_as_each_compute_share_buys(cached: list[int], steps: list[int]) -> None:
    schedules = {str(macs): costing(macs) for macs in cached}
    candidates = standard_candidates(tiny_pipeline(steps=20), schedules)
    fewer = [candidate for candidate in candidates if candidate.curve == "fewer steps"]
    assert [candidate.steps for candidate in fewer] == steps
    assert [candidate.compute_share for candidate in fewer] == [count / 20 for count in steps]


@pytest.mark.parametrize(("cached", "steps"), [(590, 10), (600, 12), (40, 2)])
def test_fewer_steps_make_whole_updates(cached: int, steps: int) -> None:
    candidates = standard_candidates(sampled_by("dpm-solver-2", 20), {"mine": costing(cached)})
    assert [candidate.steps for candidate in candidates if candidate.curve == "fewer steps"] == [steps]


def test_fewer_steps_are_not_one_too_few_by_rounding() -> None:
    assert 580 / 1000 * 50 < 29
    candidates = standard_candidates(tiny_pipeline(steps=50), {"mine": costing(580)})
    assert [candidate.steps for candidate in candidates if candidate.name.endswith(" steps")] == [29]


@pytest.mark.parametrize(
    ("sampler", "steps", "counts"),
    [
        ("ddim", 20, [19, 17, 15, 13, 11, 9, 7, 5]),
        ("dpm-solver-2", 20, [18, 16, 14, 12, 10, 8, 6, 4]),
        ("ddim", 50, [47, 42, 37, 32, 27, 22, 17, 12]),
        ("ddim", 4, [3, 2, 1]),
        ("ddim", 2, [1]),
        ("dpm-solver-2", 2, []),
    ],
)
def test_curve_of_fewer_steps_has_about_eight_points(sampler: str, steps: int, counts: list[int]) -> None:
    assert steps_over_the_curve(sampled_by(sampler, steps)) == counts


def test_candidates_are_the_baseline_then_the_schedules_then_their_rivals() -> None:
    mine = costing(620)
    candidates = standard_candidates(tiny_pipeline(steps=20), {"mine": mine})
    assert [(candidate.name, candidate.curve) for candidate in candidates] == [
        ("baseline", "baseline"),
        ("mine", "learned"),
        ("ddim, 12 steps", "fewer steps"),
        ("fixed-interval:interval=2", "fixed-interval"),
    ]
    baseline = candidates.baseline
    assert (baseline.steps, baseline.schedule, baseline.compute_share) == (20, None, 1.0)
    assert {name: candidate.schedule for name, candidate in candidates.schedules.items()} == {"mine": mine}
    interval = candidates.rivals[-1].schedule
    assert interval is not None
    assert interval.table == fixed_interval(20, 4, 2)
    assert candidates.rivals[-1].compute_share == interval.compute_share


def test_frontier_has_fewer_steps_over_the_curve_and_per_schedule() -> None:
    candidates = frontier_candidates(tiny_pipeline(steps=20), {"mine": costing(620)}, [])
    assert [candidate.steps for candidate in candidates.rivals] == [19, 17, 15, 13, 12, 11, 9, 7, 5]


def test_every_rule_traces_a_curve_of_its_own() -> None:
    pipeline = tiny_pipeline(steps=8)
    candidates = frontier_candidates(pipeline, {}, chosen_rules(every_rule()))
    curves = {candidate.curve for candidate in candidates}
    assert {*RULES, "first-block", "teacache", "fewer steps", "baseline"} - {"taylor"} <= curves
    assert {"taylor order=1", "taylor order=2", "calibrated by=unit"} <= curves
    assert len({candidate.name for candidate in candidates}) == len(list(candidates))
    for candidate in candidates:
        by_rule = candidate.schedule is not None or candidate.executor is not None
        assert by_rule == (candidate.curve not in ("baseline", "fewer steps"))


def test_name_of_a_rule_s_candidate_names_it_again() -> None:
    named = ["taylor:interval=3,order=2", "calibrated:alpha=0.2,by=unit", "teacache:threshold=0.3"]
    candidates = frontier_candidates(tiny_pipeline(), {}, chosen_rules(named))
    assert [candidate.name for candidate in candidates.rivals[-3:]] == named


def test_settings_that_make_one_table_are_one_candidate() -> None:
    rules = chosen_rules(["fixed-interval:interval=7", "fixed-interval:interval=5", "random:removed=0.0"])
    names = [candidate.name for candidate in frontier_candidates(tiny_pipeline(steps=4), {}, rules)]
    assert names[-2:] == ["fixed-interval:interval=7", "random:removed=0.0"]
    assert "fixed-interval:interval=5" not in names


@pytest.mark.parametrize(
    ("policies", "named"),
    [
        (["none"], "none"),
        (["fixed-interval", "taylor:interval=3"], "taylor.order"),
        (["fixed-interval:interval=0"], "fixed-interval.interval"),
        (["fixed-interval:pace=2"], "fixed-interval.pace"),
        ([""], "''"),
    ],
)
def test_unknown_rules_and_settings_are_refused_naming_them(policies: Sequence[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        chosen_rules(policies)


@pytest.fixture
def shipping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the package looks for the schedules of `tiny_pipeline`."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    folder = tmp_path / "tiny-ddim-4"
    folder.mkdir()
    return folder


def test_shipped_schedules_are_those_of_the_pipeline(shipping: Path) -> None:
    mine = measured_schedule(tiny_pipeline(), fixed_interval(4, 4, 2))
    unguided = measured_schedule(tiny_pipeline(guidance=Guidance(scale=1)), fixed_interval(4, 4, 2))
    for name, schedule in (("fast", mine), ("unguided", unguided)):
        (shipping / f"{name}.json").write_text(schedule.to_json())
    assert shipped_schedules(tiny_pipeline()) == {"fast": mine}
    assert shipped_schedules(tiny_pipeline(steps=5)) == {}


def test_shipped_file_that_is_no_schedule_is_refused_naming_it(shipping: Path) -> None:
    (shipping / "fast.json").write_text("{}")
    with pytest.raises(ScheduleError, match=r"fast\.json"):
        shipped_schedules(tiny_pipeline())
