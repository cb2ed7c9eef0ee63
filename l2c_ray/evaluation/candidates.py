"""Candidates of the frontier protocol: the baseline, schedules, the same sampler with fewer steps, and rules."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import cast

from l2c_ray.caching.dynamic import DYNAMIC_RULES, Threshold
from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.caching.recording import RecordingExecutor
from l2c_ray.config.base import Section
from l2c_ray.evaluation.comparison import Comparison
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.evaluation.frontier import FEWER_STEPS, Candidate
from l2c_ray.policies.calibration_set import OnCalibrated
from l2c_ray.policies.fixed_interval import FixedInterval
from l2c_ray.policies.rules import RULES, NamedSettings, provenance
from l2c_ray.schedule import Schedule, Table

_LEAST_SHARE, _MOST_SHARE = 0.2, 0.95
_POINTS_OF_FEWER_STEPS = 8


def standard_candidates(pipeline: Pipeline, schedules: Mapping[str, Schedule]) -> Comparison[Candidate]:
    """Candidates of a run: its schedules; as rivals, fewer steps at the compute of each, and the fixed interval."""
    mine = _scheduled(schedules)
    fewer = _fewer_steps(pipeline, steps_at_the_compute_of(mine.values(), pipeline))
    interval = _of_rule(pipeline, "fixed-interval", FixedInterval(interval=2))
    return Comparison(baseline(pipeline), mine, (*fewer, interval))


def frontier_candidates(
    pipeline: Pipeline,
    schedules: Mapping[str, Schedule],
    rules: Iterable[NamedSettings],
    on_calibrated: OnCalibrated = lambda done, total: None,
) -> Comparison[Candidate]:
    """Candidates of a whole frontier: as rivals, fewer steps over the curve and at each schedule's compute, and rules.

    Of several settings of a rule that make the same table the first one stands for all.

    Args:
        on_calibrated: called with the finished and all images of a calibration set, at the start and after each few;
            rules without one are made at once.
    """
    mine = _scheduled(schedules)
    fewer = {*steps_over_the_curve(pipeline), *steps_at_the_compute_of(mine.values(), pipeline)}
    ruled = (_of_rule(pipeline, name, settings, on_calibrated) for name, settings in rules)
    return Comparison(baseline(pipeline), mine, (*_fewer_steps(pipeline, fewer), *_without_repetition(ruled)))


def gate_candidates(pipeline: Pipeline, schedules: Mapping[str, Schedule]) -> Comparison[Candidate]:
    """Candidates of the gate: recorded schedules; as rivals, fewer steps at the compute of each, from many to few."""
    mine = {name: recorded(candidate) for name, candidate in _scheduled(schedules).items()}
    fewer = _fewer_steps(pipeline, steps_at_the_compute_of(mine.values(), pipeline))
    return Comparison(baseline(pipeline), mine, tuple(fewer))


def steps_over_the_curve(pipeline: Pipeline) -> list[int]:
    """About eight numbers of evaluations in whole updates, between 0.2 and 0.95 of the pipeline's."""
    steps, order = pipeline.solver.steps, pipeline.solver.order
    whole = [count for count in range(order, steps, order) if _LEAST_SHARE <= count / steps <= _MOST_SHARE]
    stride = max(1, round(len(whole) / _POINTS_OF_FEWER_STEPS))
    return whole[::-1][::stride]


def steps_at_the_compute_of(candidates: Iterable[Candidate], pipeline: Pipeline) -> list[int]:
    """The most evaluations in whole updates that each candidate's compute buys, each number once, rising."""
    steps, order = pipeline.solver.steps, pipeline.solver.order
    # A share such as 12 / 20 may come out a little less than the number of steps it stands for.
    bought = {int(candidate.compute_share * steps / order + 1e-9) * order for candidate in candidates}
    return sorted({max(order, count) for count in bought})


def baseline(pipeline: Pipeline) -> Candidate:
    """The candidate that computes everything, with which all others are compared."""
    return Candidate("baseline", "baseline", pipeline.solver.steps, None, 1.0)


def scheduled(name: str, schedule: Schedule) -> Candidate:
    """The candidate that reuses what the schedule says."""
    return Candidate(name, schedule.provenance.policy, schedule.sampler.steps, schedule, schedule.compute_share)


def recorded(candidate: Candidate) -> Candidate:
    """The same scheduled candidate, whose executors record which units they compute.

    Raises:
        ValueError: the candidate has no schedule.
    """
    if candidate.schedule is None:
        raise ValueError(f"{candidate.name} has no schedule")
    return replace(candidate, executor=partial(RecordingExecutor, candidate.schedule.table))


def _scheduled(schedules: Mapping[str, Schedule]) -> dict[str, Candidate]:
    return {name: scheduled(name, schedule) for name, schedule in schedules.items()}


def _fewer_steps(pipeline: Pipeline, counts: Iterable[int]) -> list[Candidate]:
    solver = pipeline.solver
    return [
        Candidate(f"{solver.name}, {count} steps", FEWER_STEPS, count, None, count / solver.steps)
        for count in sorted(counts, reverse=True)
    ]


def _of_rule(
    pipeline: Pipeline, name: str, settings: Section, on_calibrated: OnCalibrated = lambda done, total: None
) -> Candidate:
    """The rule's candidate, named as `chosen_rules` reads it; its first setting moves along the curve, the others make
    another curve.
    """
    given = [f"{key}={value}" for key, value in settings.model_dump(exclude_defaults=True).items()]
    full_name, curve = f"{name}:{','.join(given)}", " ".join([name, *given[1:]])
    steps = pipeline.solver.steps
    if name in DYNAMIC_RULES:
        executor = partial(DYNAMIC_RULES[name].executor, pipeline.model.units, cast(Threshold, settings))
        return Candidate(full_name, curve, steps, None, 1.0, executor)
    rule = RULES[name]
    if rule.calibrate:
        rule.calibrate(pipeline, settings, on_calibrated)
    table = rule.make(pipeline, settings)
    schedule = make_schedule(pipeline, table, provenance(name, settings))
    return Candidate(full_name, curve, steps, schedule, schedule.compute_share)


def _without_repetition(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Leaves out what has the table of an earlier point of its curve."""
    kept: dict[tuple[str, Table | str], Candidate] = {}
    for candidate in candidates:
        table = candidate.schedule.table if candidate.schedule else candidate.name
        kept.setdefault((candidate.curve, table), candidate)
    return list(kept.values())
