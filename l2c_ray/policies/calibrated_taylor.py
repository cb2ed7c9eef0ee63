"""The Taylor rule with the timetable and order that err least on a calibration set, at a given number of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated
from weakref import WeakKeyDictionary

from pydantic import Field

from l2c_ray.config.base import Section
from l2c_ray.policies.calibration_set import CalibrationSeed, OnCalibrated, calibration_set
from l2c_ray.policies.taylor import Taylor, computed_steps, taylor
from l2c_ray.schedule import MOST_STEPS, SamplerIdentity, Table

if TYPE_CHECKING:
    from l2c_ray.caching.pipeline import Pipeline
    from l2c_ray.models.base import CacheableTransformer

LONGEST_INTERVAL = 10
"""The paper and diffusers use intervals of 2 to 7."""
_ORDERS = (1, 2)
_SCREENED_ON, _FINALISTS = 8, 16
"""Images of the first round, and how many candidates reach the second; there are hundreds where steps are 50."""


class CalibratedTaylor(Section):
    """Settings of the rule."""

    computed: Annotated[float, Field(gt=0, le=1)]
    """Share of the steps that are computed, rounded to whole steps, at least one."""
    images: Annotated[int, Field(ge=1)] = 32
    """Size of the calibration set."""
    seed: CalibrationSeed = 0
    """Seed of the calibration set."""


_Key = tuple[SamplerIdentity, float, int, int]
_chosen: WeakKeyDictionary[CacheableTransformer, dict[_Key, Taylor]] = WeakKeyDictionary()


def make(pipeline: Pipeline, settings: CalibratedTaylor) -> Table:
    """The table of `choose`."""
    return taylor(pipeline.solver.steps, len(pipeline.model.units), choose(pipeline, settings))


def choose(
    pipeline: Pipeline, settings: CalibratedTaylor, on_images: OnCalibrated = lambda done, total: None
) -> Taylor:
    """The settings of the Taylor rule whose images are nearest to the baseline's, in mean squared error.

    Chosen once for a model, sampler and settings. The first of several equals is taken.
    """
    key = (pipeline.solver.identity(pipeline.guidance), settings.computed, settings.images, settings.seed)
    chosen = _chosen.setdefault(pipeline.model, {})
    if key not in chosen:
        chosen[key] = _choose(pipeline, settings, on_images)
    return chosen[key]


def _choose(pipeline: Pipeline, settings: CalibratedTaylor, on_images: OnCalibrated) -> Taylor:
    """All candidates make the first few images, and the best of them the others too."""
    steps = pipeline.solver.steps
    candidates = timetables(steps, max(1, round(settings.computed * steps)))
    first = min(_SCREENED_ON, settings.images)
    total = (1 + len(candidates)) * first + (1 + min(_FINALISTS, len(candidates))) * settings.images
    done = 0

    def on_more(images: int) -> None:
        nonlocal done
        done += images
        on_images(done, total)

    on_more(0)
    for images in (first, settings.images):
        errors = calibration_errors(pipeline, candidates, images, settings, on_more)
        candidates = [candidates[index] for index in sorted(range(len(errors)), key=errors.__getitem__)[:_FINALISTS]]
    return candidates[0]


def calibration_errors(
    pipeline: Pipeline,
    candidates: Sequence[Taylor],
    images: int,
    settings: CalibratedTaylor,
    on_more: Callable[[int], None] = lambda images: None,
) -> list[float]:
    """Mean squared error of each candidate's images to the baseline's, on the first `images` of the calibration set.

    Args:
        on_more: told after each candidate how many images it made; the baseline's come first.
    """
    from l2c_ray.caching.executor import ScheduleExecutor
    from l2c_ray.sampling.loop import baseline_handlers

    labels, seeds = calibration_set(settings.images, settings.seed, pipeline.model.num_classes)
    units = len(pipeline.model.units)
    baseline = pipeline.generate_batch(labels[:images], seeds[:images], baseline_handlers)
    on_more(images)
    errors = []
    for candidate in candidates:
        executor = ScheduleExecutor(taylor(pipeline.solver.steps, units, candidate))
        made = pipeline.generate_batch(labels[:images], seeds[:images], executor)
        errors.append(float((made - baseline).square().mean()))
        on_more(images)
    return errors


def timetables(steps: int, count: int) -> list[Taylor]:
    """Settings for every set of `count` computed steps out of 0..steps-1 that the rule can have, with either order."""
    by_steps: dict[tuple[int, ...], Taylor] = {}
    for interval in range(1, LONGEST_INTERVAL + 1):
        for before in range(-1, count + 1):
            uncooled = Taylor(interval=interval, order=1, disable_cache_before_step=before)
            computed = computed_steps(steps, uncooled)
            reused = sorted(set(range(steps)).difference(computed))
            missing = count - len(computed)
            if 0 <= missing <= len(reused):
                # Computes the last ones that are reused too.
                after = reused[-missing] if missing else MOST_STEPS
                found = uncooled.model_copy(update={"disable_cache_after_step": after})
                by_steps.setdefault(tuple(computed_steps(steps, found)), found)
    return [found.model_copy(update={"order": order}) for found in by_steps.values() for order in _ORDERS]
