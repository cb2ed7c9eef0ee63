"""Full computation at a fixed interval of steps, reuse in between (FORA, arXiv 2407.01425)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from l2c_ray.config.base import Section
from l2c_ray.schedule import Table

if TYPE_CHECKING:
    from l2c_ray.caching.pipeline import Pipeline

Interval = Annotated[int, Field(ge=1)]
"""Model evaluations from one that computes all units to the next; at 1 nothing is reused."""


class FixedInterval(Section):
    """Settings of the rule."""

    interval: Interval


def make(pipeline: Pipeline, settings: FixedInterval) -> Table:
    """The rule's table for this model and sampler."""
    return fixed_interval(pipeline.solver.steps, len(pipeline.model.units), settings.interval)


def fixed_interval(steps: int, units: int, interval: int) -> Table:
    """The table [steps, units] in which steps 0, interval, 2 * interval, ... compute all units and the others none."""
    return Table.of(tuple((int(step % interval == 0),) * units for step in range(steps)))
