"""Checks of the gate, which a schedule passes before it is served, and of drift, which it passes afterwards."""

from dataclasses import asdict, dataclass
from typing import Any

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.errors import ScheduleError
from l2c_ray.evaluation.bootstrap import Interval, Resampling
from l2c_ray.evaluation.cost import require_fit
from l2c_ray.evaluation.remeasurement import Remeasured
from l2c_ray.schedule import Schedule


@dataclass(frozen=True)
class Check:
    """A condition and its finding."""

    name: str
    passed: bool
    finding: str
    """The finding in words."""
    interval: Interval | None = None
    """Confidence interval of the measured number."""
    limit: float | None = None
    """Limit of that number."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Limits:
    """Upper limits of error and distance; None for those of fewer steps at the same compute."""

    error: float | None
    distance: float | None


def gate_checks(
    schedule: Schedule,
    mine: Remeasured,
    baseline: Remeasured,
    fewer_steps: Remeasured,
    incumbent: Remeasured | None,
    limits: Limits,
    resampling: Resampling,
) -> list[Check]:
    """Checks that a schedule must pass before an alias moves to it, beside `identity_checks`.

    Args:
        mine: the schedule's result on images that it was not chosen by; the others are results on the same images.
        fewer_steps: the same sampler with as many steps as the schedule's compute buys.
        incumbent: the schedule that has the alias; None if none has.
    """
    error, distance = mine.error(resampling), mine.distance_to(baseline, resampling)
    least = fewer_steps.error(resampling).estimate if limits.error is None else limits.error
    checks = [_below("error", error, least, "fewer steps" if limits.error is None else "the limit")]
    if distance is not None:
        other = fewer_steps.distance_to(baseline, resampling) if limits.distance is None else None
        most = other.estimate if other else limits.distance
        checks.append(_below("distance", distance, most or 0.0, "fewer steps" if other else "the limit"))
    return [*checks, skips_check(schedule, mine), _gain_check(mine, baseline, incumbent, resampling)]


def identity_checks(schedule: Schedule, pipeline: Pipeline) -> list[Check]:
    """Checks that the schedule was made for these weights, and for this model, sampler and cost otherwise."""
    made_for, found = schedule.model.weights_sha256, pipeline.model.weights_sha256
    right = made_for in (found, None)
    said = f"sha256 {found}" if right else f"the schedule was made for sha256 {made_for}, these are {found}"
    try:
        require_fit(for_weights_of(schedule, pipeline), pipeline)
    except ScheduleError as error:
        rest = Check("sampler", False, f"{error.subject}: {error.problem}")
    else:
        rest = Check("sampler", True, f"{schedule.sampler.name}, {schedule.sampler.steps} steps")
    return [Check("weights", right, said), rest]


def for_weights_of(schedule: Schedule, pipeline: Pipeline) -> Schedule:
    """The same schedule under the hash of the pipeline's weights, to measure it with them."""
    model = schedule.model.model_copy(update={"weights_sha256": pipeline.model.weights_sha256})
    return Schedule.create(model, schedule.sampler, schedule.table, schedule.provenance, schedule.cost)


def skips_check(schedule: Schedule, mine: Remeasured) -> Check:
    """Checks that the units that were really computed are those of the table, each once, in every batch."""
    planned = schedule.table.compute
    wrong = [mask for mask in mine.computed if mask != planned]
    total = sum(row.count(0) for row in planned)
    if mine.computed and not wrong:
        return Check("skips", True, f"{total} of {total} planned skips in each of {len(mine.computed)} batches")
    if not mine.computed:
        return Check("skips", False, "no executor recorded what it computed")
    skipped = sum(row.count(0) for row in wrong[0])
    other = next(
        (step, unit)
        for step, (want, had) in enumerate(zip(planned, wrong[0], strict=True))
        for unit in range(len(want))
        if want[unit] != had[unit]
    )
    where = f"first at step {other[0]}, unit {schedule.model.units[other[1]]}"
    return Check("skips", False, f"{skipped} units were skipped where {total} are planned, {where}")


def drift_check(said: float, mine: Remeasured, resampling: Resampling) -> Check:
    """Checks that the error that the version states is not below the confidence interval of the error now."""
    found = mine.error(resampling)
    words = f"{found}, the version says {said:.3g}"
    if found.low <= said:
        return Check("error", True, words, found, said)
    more = f": {found.estimate / said - 1:.0%} more" if said else ""
    return Check("error", False, words + more, found, said)


def _below(name: str, found: Interval, limit: float, whose: str) -> Check:
    passed = found.high < limit
    words = f"{found}, upper end to be under {limit:.3g} ({whose})"
    if not passed and limit:
        words += f": {found.high / limit - 1:.1%} over"
    return Check(name, passed, words, found, limit)


def _gain_check(mine: Remeasured, baseline: Remeasured, incumbent: Remeasured | None, resampling: Resampling) -> Check:
    """Checks that it is faster or better than the incumbent; without one, faster than the baseline."""
    speedup = mine.speedup_over(incumbent or baseline, resampling)
    whose = "incumbent" if incumbent else "baseline"
    words = f"{speedup} times as fast as the {whose}, lower end to be over 1"
    passed = speedup.low > 1
    if not passed:
        words += f": {1 - speedup.low:.1%} short"
    if incumbent:
        error = mine.error_over(incumbent, resampling)
        words += f"; or {error} more error than it, upper end to be under 0"
        passed = passed or error.high < 0
    return Check("gain", passed, words, speedup, 1.0)
