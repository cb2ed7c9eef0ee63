"""`l2c drift`: measures a live schedule again in this process and compares it with its version's record."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from l2c_ray.cli.json_output import print_json
from l2c_ray.cli.output import checks_table, console
from l2c_ray.cli.progress import progress_display
from l2c_ray.errors import GateError, IntegrityError, ScheduleError
from l2c_ray.registry import tracking
from l2c_ray.registry.versions import load_schedule, look_up, parse_reference

if TYPE_CHECKING:
    from l2c_ray.caching.pipeline import Pipeline
    from l2c_ray.evaluation.gate import Check
    from l2c_ray.evaluation.remeasurement import Remeasured
    from l2c_ray.registry.versions import RegisteredVersion
    from l2c_ray.schedule import Schedule

_IMAGES = 512


def drift_and_report(
    reference: str, checkpoint: Path | None, images: int | None, batch_size: int, as_json: bool
) -> None:
    """Prints the checks of a version.

    Raises:
        GateError: a check fails.
    """
    parse_reference(reference)
    version = look_up(tracking.connect(), reference)
    checks = _check(version, checkpoint, images or _images_of(version), batch_size)
    if as_json:
        print_json({"version": version.uri, "checks": [check.as_dict() for check in checks]})
    else:
        console.print(checks_table(check.as_dict() for check in checks))
    failed = [f"{check.name} {check.finding}" for check in checks if not check.passed]
    if failed:
        raise GateError(version.uri, f"no longer holds: {', '.join(failed)}", "learn it anew, or roll its alias back")


def _check(version: RegisteredVersion, checkpoint: Path | None, images: int, batch_size: int) -> list[Check]:
    from l2c_ray.caching.pipeline import Pipeline
    from l2c_ray.evaluation.bootstrap import Resampling
    from l2c_ray.evaluation.gate import Check, drift_check, for_weights_of, identity_checks, skips_check

    try:
        schedule = load_schedule(version)
    except (IntegrityError, ScheduleError) as error:
        return [Check("schedule", False, error.problem)]
    pipeline = Pipeline.for_schedule(schedule, checkpoint)
    weights, sampler = identity_checks(schedule, pipeline)
    if not sampler.passed:
        # Its steps or units mean something else here.
        return [weights, sampler]
    # Its error with other weights is worth knowing too.
    mine = _measure(for_weights_of(schedule, pipeline), pipeline, images, batch_size)
    return [weights, sampler, drift_check(version.mse, mine, Resampling()), skips_check(schedule, mine)]


def _measure(schedule: Schedule, pipeline: Pipeline, images: int, batch_size: int) -> Remeasured:
    from l2c_ray.evaluation import classifier
    from l2c_ray.evaluation.candidates import baseline, recorded, scheduled
    from l2c_ray.evaluation.comparison import Comparison
    from l2c_ray.evaluation.frontier import Sampler
    from l2c_ray.evaluation.remeasurement import frontier_draws, remeasure

    model = pipeline.model
    candidates = Comparison(baseline(pipeline), {"schedule": recorded(scheduled("schedule", schedule))})
    sampler = Sampler(pipeline, batch_size)
    draws, judge = frontier_draws(images, model.num_classes), classifier.judge_of(model.image_shape)
    with progress_display() as display:
        measured = remeasure(candidates, sampler, draws, batch_size, judge, display.on_images)
    return measured.schedules["schedule"]


def _images_of(version: RegisteredVersion) -> int:
    """Number of images that the version was measured on, so that the very same ones are made again."""
    stated = re.search(r"images=([1-9]\d{0,6})(?!\d)", version.protocol)
    return int(stated[1]) if stated else _IMAGES
