"""A fixed interval whose reused values are forecast by a Taylor polynomial (TaylorSeer, arXiv 2503.06923)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from l2c_ray.config.base import Section
from l2c_ray.policies.fixed_interval import Interval, fixed_interval
from l2c_ray.schedule import Table

if TYPE_CHECKING:
    from l2c_ray.caching.pipeline import Pipeline


class Taylor(Section):
    """Settings of the rule."""

    interval: Interval
    order: Annotated[int, Field(ge=1, le=2)]
    """Of the polynomial; lower while too few values are computed."""


def make(pipeline: Pipeline, settings: Taylor) -> Table:
    """The rule's table for this model and sampler."""
    return taylor(pipeline.solver.steps, len(pipeline.model.units), settings.interval, settings.order)


def taylor(steps: int, units: int, interval: int, order: int) -> Table:
    """The fixed interval's mask, with the forecast of order 1 or 2 wherever it reuses."""
    plain = fixed_interval(steps, units, interval)
    full = [step for step, row in enumerate(plain.compute) if all(row)]
    forecast = []
    for step in range(steps):
        computed = [earlier for earlier in full if earlier <= step]
        forecast.append((taylor_coefficients(step, computed, order),) * units)
    return Table.of(plain.compute, forecast=tuple(forecast))


def taylor_coefficients(step: int, computed: list[int], order: int) -> tuple[float, ...]:
    """Those of `Forecast` at `step` that make v0 + k * d1 + k^2 / 2 * d2; none where too little is computed.

    As in the paper, the derivatives d1 and d2 are backward differences over the steps between the values, both
    divided by the last gap's length; k counts steps from the last value.

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
