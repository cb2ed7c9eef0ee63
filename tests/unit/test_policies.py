from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from unit_factories import tiny_dit

from l2c_ray.caching.dynamic import DYNAMIC_RULES
from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.data.seeding import draw_seed
from l2c_ray.errors import ConfigError
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.models.base import UnitHandler
from l2c_ray.policies.calibrated import Calibrated, calibration_errors, reuse_below
from l2c_ray.policies.calibrated_taylor import CalibratedTaylor, choose, timetables
from l2c_ray.policies.calibrated_taylor import calibration_errors as taylor_errors
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.policies.rules import RULES, parse_rule, provenance
from l2c_ray.policies.taylor import Taylor, computed_steps, taylor, taylor_coefficients
from l2c_ray.sampling.loop import noise_from_seeds, sample_images
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance, Schedule, Table

UNITS = 4


def pipeline_of(steps: int, sampler: str = "ddim") -> Pipeline:
    model = tiny_dit()
    return Pipeline(model, make_solver(sampler, steps, model), Guidance(scale=1.5))


def table_of(rule: str, pipeline: Pipeline | None = None) -> Table:
    """The table of a rule as the command line writes it."""
    name, settings = parse_rule(rule)
    table: Table = RULES[name].make(pipeline or pipeline_of(8), settings)
    return table


def column(table: Table, unit: int = 0) -> list[int]:
    return [row[unit] for row in table.compute]


def executed(table: Table, value_at: Callable[[int], float]) -> list[float]:
    """The first unit's output at each step if it computes to `value_at(step)`."""
    executor = ScheduleExecutor(table)
    outputs = []
    for step in range(len(table.compute)):

        def compute(step: int = step) -> Tensor:
            return torch.tensor([value_at(step)], dtype=torch.float64)

        outputs.append(executor(step)(0, compute).item())
    return outputs


@pytest.mark.parametrize("name", RULES)
def test_every_setting_of_a_sweep_makes_a_schedule_again_and_again(name: str) -> None:
    pipeline = pipeline_of(8)
    rule = RULES[name]
    shares = []
    for settings in rule.sweep:
        made = make_schedule(pipeline, rule.make(pipeline, settings), provenance(name, settings))
        schedule = Schedule.from_json(made.to_json(), source="test")
        again = rule.settings.parse(dict(schedule.provenance.settings), source="test")
        assert schedule.provenance.policy == name
        assert schedule.table == rule.make(pipeline, again)
        assert pipeline.generate([0, 2], [0, 1], schedule).isfinite().all()
        shares.append(schedule.compute_share)
    assert min(shares) < max(shares) <= 1


def test_fixed_interval_counts_evaluations_of_any_solver() -> None:
    assert column(table_of("fixed-interval:interval=3")) == [1, 0, 0, 1, 0, 0, 1, 0]
    assert column(table_of("fixed-interval:interval=3", pipeline_of(8, "dpm-solver-2"))) == [1, 0, 0, 1, 0, 0, 1, 0]


def test_taylor_has_the_mask_of_the_fixed_interval() -> None:
    assert table_of("taylor:interval=3,order=2").compute == fixed_interval(8, UNITS, 3).compute


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ("interval=3,order=1", [0, 3, 6, 9]),
        ("interval=3,order=1,disable_cache_before_step=1", [0, 2, 5, 8, 11]),
        ("interval=3,order=1,disable_cache_before_step=4", [0, 1, 2, 3, 5, 8, 11]),
        ("interval=4,order=1,disable_cache_before_step=2", [0, 1, 3, 7, 11]),
        ("interval=5,order=1,disable_cache_before_step=1,disable_cache_after_step=10", [0, 2, 7, 10, 11]),
        ("interval=5,order=1,disable_cache_before_step=0", [0, 1, 6, 11]),
        ("interval=1,order=1", list(range(12))),
    ],
)
def test_taylor_computes_warm_up_interval_and_cooldown(settings: str, steps: list[int]) -> None:
    table = table_of(f"taylor:{settings}", pipeline_of(12))
    assert [step for step, bit in enumerate(column(table)) if bit] == steps


def test_timetables_are_all_that_the_settings_can_give() -> None:
    found = [tuple(computed_steps(9, settings)) for settings in timetables(9, 4) if settings.order == 2]
    tried = [
        Taylor(interval=interval, order=2, disable_cache_before_step=before, disable_cache_after_step=after)
        for interval in range(1, 11)
        for before in range(-1, 9)
        for after in range(1, 10)
    ]
    wanted = {steps for settings in tried if len(steps := tuple(computed_steps(9, settings))) == 4}
    assert len(found) == len(set(found)) > 10
    assert set(found) == wanted


def test_calibrated_taylor_takes_the_least_error_of_its_calibration_set() -> None:
    pipeline = pipeline_of(8)
    settings = CalibratedTaylor(computed=0.5, images=2, seed=3)
    chosen = choose(pipeline, settings)
    candidates = timetables(8, 4)
    errors = taylor_errors(pipeline, candidates, 2, settings)
    assert errors[candidates.index(chosen)] == min(errors)
    assert min(errors) < max(errors)
    assert table_of("calibrated-taylor:computed=0.5,images=2,seed=3", pipeline) == taylor(8, UNITS, chosen)


@pytest.mark.parametrize(("computed", "steps"), [(1, 8), (0.75, 6), (0.45, 4), (0.01, 1)])
def test_calibrated_taylor_computes_the_share_of_steps(computed: float, steps: int) -> None:
    assert sum(column(table_of(f"calibrated-taylor:computed={computed},images=1"))) == steps


def test_calibrated_taylor_reports_its_images_and_chooses_once() -> None:
    pipeline = pipeline_of(8)
    reported: list[tuple[int, int]] = []
    settings = CalibratedTaylor(computed=0.5, images=3)
    choose(pipeline, settings, lambda done, total: reported.append((done, total)))
    assert reported[0][0] == 0
    assert reported[-1][0] == reported[-1][1]
    assert len({total for _, total in reported}) == 1
    choose(pipeline, settings, lambda done, total: pytest.fail("sampled again"))


@pytest.mark.parametrize("order", [1, 2])
def test_taylor_follows_a_straight_line_once_it_has_two_values(order: int) -> None:
    outputs = executed(taylor(12, 1, Taylor(interval=3, order=order)), lambda step: 2 - 5 * step)
    assert outputs[:3] == [2, 2, 2]
    assert outputs[3:] == pytest.approx([2 - 5 * step for step in range(3, 12)])


@pytest.mark.parametrize(("order", "missing"), [(1, lambda k: k * k + 3 * k), (2, lambda k: 3 * k)])
def test_taylor_lags_behind_a_parabola_by_what_backward_differences_do(
    order: int, missing: Callable[[int], float]
) -> None:
    """The first difference is the slope half a gap before the last value: an order-2 forecast misses gap * k."""
    outputs = executed(taylor(12, 1, Taylor(interval=3, order=order)), lambda step: step**2)
    assert outputs[6:] == pytest.approx([step**2 - missing(step % 3) for step in range(6, 12)])


def test_taylor_divides_by_the_gaps_that_there_are() -> None:
    v2, v1, v0 = 3.0, -1.0, 4.0
    slope, slope_before = (v0 - v1) / 3, (v1 - v2) / 2
    expected = v0 + 2 * slope + 2**2 / 2 * (slope - slope_before) / 3
    first, second = taylor_coefficients(7, [0, 2, 5], order=2)
    assert v0 + first * (v0 - v1) + second * (v0 - 2 * v1 + v2) == pytest.approx(expected)


def test_calibrated_goes_from_everything_to_its_longest_gaps() -> None:
    pipeline = pipeline_of(8)
    assert column(table_of("calibrated:alpha=0,images=2", pipeline)) == [1] * 8
    assert column(table_of("calibrated:alpha=1e9,images=2", pipeline)) == [1, 0, 0, 0, 1, 0, 0, 0]
    assert column(table_of("calibrated:alpha=1e9,images=2,max_gap=1", pipeline)) == [1, 0] * 4
    assert column(table_of("calibrated:alpha=1e9,images=2,max_gap=9", pipeline)) == [1] + [0] * 7


@pytest.mark.parametrize("by", ["kind", "unit"])
def test_calibrated_computes_less_at_a_higher_threshold(by: str) -> None:
    pipeline = pipeline_of(20)
    alphas = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 5.0)
    tables = [table_of(f"calibrated:alpha={alpha},by={by},images=2", pipeline) for alpha in alphas]
    computed = [sum(map(sum, table.compute)) for table in tables]
    assert computed == sorted(computed, reverse=True)
    assert len(set(computed)) > 3


def test_calibrated_compares_with_the_last_computed_step() -> None:
    nothing = torch.nan
    # Halves and eighths, which single precision holds as they are.
    curves = [[nothing, nothing], [0.125, nothing], [0.125, 0.5], [0.125] * 2, [0.125, 0.5], [0.125] * 2, [0.125] * 2]
    errors = torch.tensor(curves).unsqueeze(1)
    assert column(reuse_below(errors, alpha=0.25)) == [1, 0, 1, 0, 1, 0, 0]
    assert column(reuse_below(errors, alpha=0.75)) == [1, 0, 0, 1, 0, 0, 1]
    assert column(reuse_below(errors, alpha=0.125)) == [1] * 7


def test_an_error_that_is_no_number_is_never_below_the_threshold() -> None:
    assert column(reuse_below(torch.full((4, 1, 2), torch.nan), alpha=1e9)) == [1] * 4


def test_calibration_errors_are_those_of_the_outputs_of_baselines() -> None:
    pipeline = pipeline_of(5)
    # Two lots of images, of four and of two.
    errors = calibration_errors(pipeline, images=6, seed=3, max_gap=2)
    lots = [_outputs(pipeline, numbers, images=6, seed=3) for numbers in (range(4), range(4, 6))]
    assert errors.shape == (5, UNITS, 2)
    for step in range(5):
        for unit in range(UNITS):
            for gap in (1, 2):
                found = errors[step, unit, gap - 1].item()
                if gap > step:
                    assert found != found
                    continue
                pairs = [(lot[step, unit], lot[step - gap, unit]) for lot in lots]
                first, second = (float((now - then).abs().sum() / now.abs().sum()) for now, then in pairs)
                assert found == pytest.approx((4 * first + 2 * second) / 6, rel=1e-4)


def _outputs(pipeline: Pipeline, numbers: range, images: int, seed: int) -> dict[tuple[int, int], Tensor]:
    outputs: dict[tuple[int, int], Tensor] = {}

    def recording(step: int) -> UnitHandler:
        def handle(unit: int, compute: Callable[[], Tensor]) -> Tensor:
            outputs[step, unit] = compute()
            return outputs[step, unit]

        return handle

    noise = noise_from_seeds([draw_seed(seed, "calibration", number) for number in numbers], (1, 4, 4))
    labels = torch.tensor([number * 3 // images for number in numbers])
    sample_images(pipeline.model, pipeline.solver, noise, labels, pipeline.guidance, recording)
    return outputs


def test_units_of_a_kind_decide_together_by_their_mean_error() -> None:
    pipeline = pipeline_of(20)
    errors = calibration_errors(pipeline, images=2, seed=0, max_gap=3)
    together = table_of("calibrated:alpha=0.05,images=2", pipeline)
    for first in (0, 1):
        mean = (errors[:, first] + errors[:, first + 2]) / 2
        assert column(together, first) == column(together, first + 2) == column(reuse_below(mean.unsqueeze(1), 0.05))
    apart = table_of("calibrated:alpha=0.05,by=unit,images=2", pipeline)
    assert apart == reuse_below(errors, 0.05)
    assert column(apart, 0) != column(apart, 2)


def test_thresholds_share_a_calibration_and_seeds_do_not() -> None:
    pipeline = pipeline_of(4)
    evaluations: list[int] = []
    pipeline.model.register_forward_pre_hook(lambda *_: evaluations.append(1))
    made = RULES["calibrated"].make
    first = made(pipeline, Calibrated(alpha=0.1, images=2))
    made(pipeline, Calibrated(alpha=0.2, by="unit", images=2))
    assert made(pipeline, Calibrated(alpha=0.1, images=2)) == first
    assert len(evaluations) == 4
    made(pipeline, Calibrated(alpha=0.1, images=2, seed=1))
    made(Pipeline(pipeline.model, pipeline.solver, Guidance(scale=1)), Calibrated(alpha=0.1, images=2))
    assert len(evaluations) == 12


def test_a_seed_is_a_calibration_set() -> None:
    first, again, other = (calibration_errors(pipeline_of(4), 2, seed, 2) for seed in (0, 0, 1))
    assert torch.equal(first.nan_to_num(), again.nan_to_num())
    assert not torch.allclose(first.nan_to_num(), other.nan_to_num())


@pytest.mark.parametrize(("removed", "units"), [(0, 0), (0.25, 4), (0.4, 6), (1, 16)])
def test_random_removes_exactly_the_share_of_the_cache_steps(removed: float, units: int) -> None:
    pipeline = pipeline_of(8)
    table = table_of(f"random:removed={removed},seed=5", pipeline)
    assert table.cache_steps == pipeline.solver.cache_steps() == (1, 3, 5, 7)
    assert sum(row.count(0) for row in table.compute) == units


def test_random_removes_other_units_under_another_seed_and_spares_none() -> None:
    tables = [table_of(f"random:removed=0.25,seed={seed}") for seed in range(30)]
    assert table_of("random:removed=0.25,seed=7") == tables[7]
    assert tables[0] != tables[1]
    for step in (1, 3, 5, 7):
        assert not any(all(table.compute[step][unit] for table in tables) for unit in range(UNITS))


@pytest.mark.parametrize(
    ("rule", "row"),
    [
        ("from-bottom:removed=0.25", (0, 1, 1, 1)),
        ("from-bottom:removed=0.5", (0, 0, 1, 1)),
        ("from-top:removed=0.5", (1, 1, 0, 0)),
        ("from-top:removed=0.75", (1, 0, 0, 0)),
        ("from-top:removed=1", (0, 0, 0, 0)),
        ("from-top:removed=0", (1, 1, 1, 1)),
    ],
)
def test_one_side_goes_first_at_every_cache_step(rule: str, row: tuple[int, ...]) -> None:
    full = (1,) * UNITS
    assert table_of(rule, pipeline_of(4)).compute == (full, row, full, row)
    of_two_evaluations = table_of(rule, pipeline_of(6, "dpm-solver-2"))
    assert of_two_evaluations.compute == (full, full, row, full, row, full)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("fixed-interval:interval=3", {"interval": 3}),
        (
            "taylor:interval=3,order=2",
            {"interval": 3, "order": 2, "disable_cache_before_step": -1, "disable_cache_after_step": 1000},
        ),
        ("calibrated-taylor:computed=0.5", {"computed": 0.5, "images": 32, "seed": 0}),
        ("calibrated:alpha=1,by=unit", {"alpha": 1.0, "by": "unit", "images": 32, "seed": 0, "max_gap": 3}),
        ("random:seed=4,removed=0.5", {"removed": 0.5, "seed": 4}),
        ("first-block:threshold=0.1", {"threshold": 0.1}),
    ],
)
def test_a_rule_is_written_with_its_settings(text: str, settings: dict[str, Any]) -> None:
    name, parsed = parse_rule(text)
    assert name == text.partition(":")[0]
    assert parsed.model_dump() == settings


@pytest.mark.parametrize("name", [*RULES, *DYNAMIC_RULES])
def test_settings_of_sweeps_can_be_written(name: str) -> None:
    rule = (RULES | DYNAMIC_RULES)[name]
    for settings in rule.sweep:
        written = ",".join(f"{key}={value}" for key, value in settings.model_dump().items())
        assert parse_rule(f"{name}:{written}") == (name, settings)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("fixed:interval=2", r"no rule 'fixed'; take one of fixed-interval, taylor, .*teacache"),
        ("", r"no rule ''"),
        ("taylor", r"taylor\.interval .*is missing"),
        ("taylor:interval=0,order=1", r"taylor\.interval .*greater than or equal to 1"),
        ("taylor:interval=2,order=3", r"taylor\.order .*less than or equal to 2"),
        ("fixed-interval:interval=2.5", r"fixed-interval\.interval .*valid integer"),
        ("fixed-interval:interval=two", r"fixed-interval\.interval .*valid integer; it is 'two' now"),
        ("fixed-interval:interval=2,intervall=3", r"fixed-interval\.intervall .*did you mean interval"),
        ("fixed-interval:interval=2,interval=3", r"fixed-interval\.interval .*given twice"),
        ("fixed-interval:interval", r"'interval' .*not a setting; write fixed-interval:key=value"),
        ("fixed-interval:interval=2,", r"'' .*not a setting"),
        ("taylor:interval=2,order=1,disable_cache_before_step=-2", r"taylor\.disable_cache_before_step .*-1"),
        ("calibrated-taylor:computed=0", r"calibrated-taylor\.computed .*greater than 0"),
        ("calibrated:alpha=-1", r"calibrated\.alpha .*greater than or equal to 0"),
        ("calibrated:alpha=nan", r"calibrated\.alpha .*finite"),
        ("calibrated:alpha=1,by=block", r"calibrated\.by .*'kind' or 'unit'"),
        ("random:removed=1.1", r"random\.removed .*less than or equal to 1"),
        ("teacache:threshold=true", r"teacache\.threshold .*valid number"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_by_its_key(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_rule(text)
