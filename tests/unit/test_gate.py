"""Measuring anew, confidence intervals, and each check of the gate."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from unit_factories import MASK, cost, small_schedule

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.caching.recording import RecordingExecutor
from l2c_ray.evaluation import classifier
from l2c_ray.evaluation.bootstrap import Interval, Resampling
from l2c_ray.evaluation.candidates import gate_candidates
from l2c_ray.evaluation.comparison import Comparison
from l2c_ray.evaluation.frontier import FIRST_SEED, Candidate, Sampler
from l2c_ray.evaluation.gate import Check, Limits, drift_check, gate_checks, identity_checks, skips_check
from l2c_ray.evaluation.remeasurement import Remeasured, fresh_draws, frontier_draws, remeasure
from l2c_ray.schedule import Mask, Schedule, Table

IMAGES, CHUNKS = 40, 8
RESAMPLING = Resampling(resamples=100)
LIMITS = Limits(error=1e-3, distance=1.0)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def measured(
    error: float = 5e-4, shift: float = 0.01, seconds: float = 1.0, computed: tuple[Mask, ...] = (MASK,)
) -> Remeasured:
    """Errors and seconds that vary by a tenth, and features that are `shift` away from the baseline's."""
    return Remeasured(
        candidate=Candidate("mine", "learned", 3, small_schedule(), 0.75),
        errors=error * (1 + 0.1 * noise(IMAGES)),
        features=(noise(IMAGES, 64) + shift).float(),
        seconds=seconds * (1 + 0.02 * noise(CHUNKS)),
        computed=computed,
    )


FULL = measured(error=0.0, shift=0.0, seconds=2.0, computed=())
FEWER_STEPS = measured(error=2e-3, shift=0.1, seconds=1.5, computed=())


def checks(
    mine: Remeasured | None = None, incumbent: Remeasured | None = None, limits: Limits = LIMITS
) -> dict[str, Check]:
    mine = mine or measured()
    found = gate_checks(small_schedule(), mine, FULL, FEWER_STEPS, incumbent, limits, RESAMPLING)
    return {check.name: check for check in found}


def failed(found: dict[str, Check]) -> list[str]:
    return [name for name, check in found.items() if not check.passed]


def test_good_version_passes_every_check() -> None:
    assert list(checks()) == ["error", "distance", "skips", "gain"]
    assert failed(checks()) == []


def test_error_over_its_limit_fails_and_tells_by_how_much() -> None:
    found = checks(measured(error=2e-3))
    assert failed(found) == ["error"]
    check = found["error"]
    assert check.interval is not None
    assert check.limit == 1e-3
    assert f"{check.interval.high / 1e-3 - 1:.1%} over" in check.finding


def test_interval_and_not_the_estimate_has_to_be_under_the_limit() -> None:
    mine = measured()
    interval = mine.error(RESAMPLING)
    between = (interval.estimate + interval.high) / 2
    assert interval.estimate < between < interval.high
    assert failed(checks(mine, limits=Limits(between, 1.0))) == ["error"]
    assert failed(checks(mine, limits=Limits(interval.high * 1.001, 1.0))) == []


def test_distance_over_its_limit_fails() -> None:
    assert failed(checks(measured(shift=0.5))) == ["distance"]


def test_without_limits_fewer_steps_are_the_limit() -> None:
    none = Limits(None, None)
    found = checks(limits=none)
    assert failed(found) == []
    assert found["error"].limit == pytest.approx(FEWER_STEPS.errors.mean().item())
    assert failed(checks(measured(error=2.1e-3, shift=0.2), limits=none)) == ["error", "distance"]


def test_images_that_nobody_can_judge_have_no_distance_to_keep() -> None:
    assert list(checks(replace(measured(), features=None))) == ["error", "skips", "gain"]


@pytest.mark.parametrize(
    ("computed", "told"),
    [
        (
            (MASK, ((1, 1, 1, 1), (1, 1, 0, 1), (1, 0, 1, 1))),
            "2 units were skipped where 3 are planned, first at step 1",
        ),
        ((((1, 1, 1, 1), (0, 2, 0, 1), (1, 0, 1, 1)),), "first at step 1, unit blocks.0.mlp"),
        ((), "no executor recorded"),
    ],
    ids=["one computed", "one computed twice", "none told"],
)
def test_skips_that_are_not_the_planned_ones_fail(computed: tuple[Mask, ...], told: str) -> None:
    found = checks(measured(computed=computed))
    assert failed(found) == ["skips"]
    assert told in found["skips"].finding


def test_version_that_is_not_faster_than_the_baseline_fails() -> None:
    found = checks(measured(seconds=2.0))
    assert failed(found) == ["gain"]
    assert "% short" in found["gain"].finding


@pytest.mark.parametrize(
    ("error", "seconds", "passes"),
    [
        (5e-4, 1.0, False),
        (5e-4, 0.8, True),
        (4e-4, 1.0, True),
        (9e-4, 0.8, True),
        (4e-4, 1.5, True),
        (9e-4, 1.2, False),
    ],
    ids=["equal", "faster", "better", "faster and worse", "better and slower", "slower and worse"],
)
def test_version_has_to_be_faster_or_better_than_the_incumbent(error: float, seconds: float, passes: bool) -> None:
    found = checks(measured(error=error, seconds=seconds), incumbent=measured())
    assert (failed(found) == []) is passes


def test_error_is_compared_by_pairs() -> None:
    mine, other = measured(error=5e-4), measured(error=5.05e-4)
    # Their intervals overlap almost wholly; the difference of each pair tells them apart.
    assert mine.error(RESAMPLING).high > other.error(RESAMPLING).estimate
    assert mine.error_over(other, RESAMPLING).high < 0


def test_interval_is_seeded_and_close_to_the_normal_one() -> None:
    values = noise(400)
    resampling = Resampling(resamples=2000)

    def mean(numbers: Tensor) -> float:
        return values[numbers].mean().item()

    interval = resampling.interval(400, mean)
    assert interval == resampling.interval(400, mean)
    assert interval != replace(resampling, seed=1).interval(400, mean)
    half = 1.96 * values.std().item() / 20
    assert interval.estimate == pytest.approx(values.mean().item())
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)
    narrower = replace(resampling, confidence=0.5).interval(400, mean)
    assert interval.low < narrower.low < narrower.high < interval.high


def test_drift_is_an_error_that_the_interval_lies_above() -> None:
    mine = measured(error=5e-4)
    assert drift_check(5e-4, mine, RESAMPLING).passed
    assert drift_check(6e-4, mine, RESAMPLING).passed
    found = drift_check(4e-4, mine, RESAMPLING)
    assert not found.passed
    assert "% more" in found.finding
    assert not drift_check(0.0, mine, RESAMPLING).passed
    assert drift_check(0.0, measured(error=0.0), RESAMPLING).passed


def test_fresh_images_are_no_images_of_the_frontier_protocol() -> None:
    seeds = fresh_draws(0, "a", 300, 10).seeds
    assert len(set(seeds)) == 300
    assert min(seeds) > FIRST_SEED + 10**9
    assert fresh_draws(0, "a", 300, 10).seeds == seeds
    assert not set(seeds) & set(fresh_draws(0, "b", 300, 10).seeds)
    assert not set(seeds) & set(fresh_draws(1, "a", 300, 10).seeds)
    # Torch takes them as they are.
    assert torch.Generator().manual_seed(max(seeds)).initial_seed() == max(seeds)
    assert frontier_draws(3, 2) == ([0, 1, 0], [FIRST_SEED, FIRST_SEED + 1, FIRST_SEED + 2])


def test_recorded_run_makes_the_same_images_and_counts_what_it_computes(
    digits_pipeline: Pipeline, half: Schedule
) -> None:
    plain, recording = ScheduleExecutor(half.table), RecordingExecutor(half.table)
    images = [digits_pipeline.generate_batch([3, 4], [0, 1], each) for each in (plain, recording)]
    assert torch.equal(*images)
    assert tuple(map(tuple, recording.computed)) == half.table.compute


def test_remeasuring_finds_the_errors_of_baseline_and_schedule(digits_pipeline: Pipeline, half: Schedule) -> None:
    candidates = gate_candidates(digits_pipeline, {"half": half})
    assert [candidate.curve for candidate in candidates] == ["baseline", "test", "fewer steps"]
    sampler = Sampler(digits_pipeline, 4)
    full, mine, fewer = remeasure(candidates, sampler, fresh_draws(0, "", 6, 10), 4, classifier.load())
    assert full.errors.abs().max() == 0
    labels, seeds = fresh_draws(0, "", 6, 10)
    everything = digits_pipeline.generate(labels, seeds)
    images = digits_pipeline.generate(labels, seeds, half)
    assert torch.allclose(mine.errors, (images - everything).double().square().flatten(1).mean(1), rtol=1e-3)
    assert mine.features is not None
    assert mine.features.shape == (6, 64)
    assert len(mine.seconds) == 2
    assert mine.computed == (half.table.compute,) * 2
    assert fewer.computed == ()
    assert skips_check(half, mine).passed


def test_executor_that_does_not_do_what_the_schedule_says_is_found(digits_pipeline: Pipeline, half: Schedule) -> None:
    candidates = gate_candidates(digits_pipeline, {"half": half})
    everything = Table.of(tuple((1,) * 24 for _ in range(4)))
    lying = replace(candidates.schedules["half"], executor=partial(RecordingExecutor, everything))
    sampler = Sampler(digits_pipeline, 4)
    pair = Comparison(candidates.baseline, {"half": lying})
    mine = remeasure(pair, sampler, fresh_draws(0, "", 2, 10), 4, None).schedules["half"]
    assert "0 units were skipped where 48 are planned" in skips_check(half, mine).finding


def test_identity_tells_weights_from_all_else(digits_pipeline: Pipeline, half: Schedule) -> None:
    assert [check.passed for check in identity_checks(half, digits_pipeline)] == [True, True]
    other = half.model.model_copy(update={"weights_sha256": "0" * 64})
    strange = Schedule.create(other, half.sampler, half.table, half.provenance, half.cost)
    weights, sampler = identity_checks(strange, digits_pipeline)
    assert (weights.passed, sampler.passed) == (False, True)
    assert "0" * 64 in weights.finding
    timesteps = (*half.sampler.timesteps[:-1], 0.5)
    moved = half.sampler.model_copy(update={"timesteps": timesteps})
    strange = Schedule.create(half.model, moved, half.table, half.provenance, half.cost)
    weights, sampler = identity_checks(strange, digits_pipeline)
    assert (weights.passed, sampler.passed) == (True, False)
    assert "sampler.timesteps" in sampler.finding
    dearer = Schedule.create(half.model, half.sampler, half.table, half.provenance, cost(900))
    assert "cost.layers" in identity_checks(dearer, digits_pipeline)[1].finding


def test_interval_is_written_with_its_ends() -> None:
    assert str(Interval(1.5e-4, 1e-4, 2e-4)) == "0.00015 [0.0001, 0.0002]"
