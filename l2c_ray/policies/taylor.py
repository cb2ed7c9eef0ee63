"""Taylor forecasts of reused values on a fixed timetable (TaylorSeer, arXiv 2503.06923; diffusers' TaylorSeerCache)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from l2c_ray.config.base import Section
from l2c_ray.policies.fixed_interval import Interval
from l2c_ray.schedule import MOST_STEPS, Table

if TYPE_CHECKING:
    from l2c_ray.caching.pipeline import Pipeline


class Taylor(Section):
    """Settings of the rule, as diffusers' `TaylorSeerCacheConfig` has them; the defaults are the paper's timetable."""

    interval: Interval
    """diffusers' `cache_interval`."""
    order: Annotated[int, Field(ge=1, le=2)]
    """diffusers' `max_order`: degree of the polynomial, lower while too few values are computed."""
    disable_cache_before_step: Annotated[int, Field(ge=-1, le=MOST_STEPS)] = -1
    """Warm-up: the steps before this one are computed, this one is reused, and from the next on every `interval`-th
    is computed. At -1 these are steps 0, interval, 2 * interval, ..."""
    disable_cache_after_step: Annotated[int, Field(ge=1, le=MOST_STEPS)] = MOST_STEPS
    """Cooldown: this step and all after it are computed."""


def make(pipeline: Pipeline, settings: Taylor) -> Table:
    """The rule's table for this model and sampler."""
    return taylor(pipeline.solver.steps, len(pipeline.model.units), settings)


def taylor(steps: int, units: int, settings: Taylor) -> Table:
    """The table [steps, units] of `computed_steps`, with forecasts of the settings' order wherever it reuses."""
    computed = computed_steps(steps, settings)
    mask = tuple((int(step in computed),) * units for step in range(steps))
    forecast = []
    for step in range(steps):
        so_far = [earlier for earlier in computed if earlier <= step]
        forecast.append((taylor_coefficients(step, so_far, settings.order),) * units)
    return Table.of(mask, forecast=tuple(forecast))


def computed_steps(steps: int, settings: Taylor) -> list[int]:
    """The steps of 0..steps-1 that compute all units, rising; those of diffusers' hook, and step 0 always."""
    before, after = settings.disable_cache_before_step, settings.disable_cache_after_step
    return [
        step
        for step in range(steps)
        if step == 0 or step < before or (step - before - 1) % settings.interval == 0 or step >= after
    ]


def taylor_coefficients(step: int, computed: list[int], order: int) -> tuple[float, ...]:
    """Coefficients of `Forecast` for v0 + k * d1 + k^2 / 2 * d2 at `step`; empty where too little is computed.

    The derivatives d1 and d2 are the paper's backward differences (its equation 3), as diffusers divides them: each
    by the gap between the last two computed steps. k counts steps from the last one.

    Args:
        computed: the steps computed so far, rising; the last one may be `step` itself.
    """
    k = step - computed[-1]
    usable = min(order, len(computed) - 1)
    if not k or not usable:
        return ()
    last_gap = computed[-1] - computed[-2]
    if usable == 1:
        return (k / last_gap,)
    gap_before = computed[-2] - computed[-3]
    curvature = k**2 / (2 * last_gap * gap_before)
    return k / last_gap + k**2 / (2 * last_gap**2) - curvature, curvature
