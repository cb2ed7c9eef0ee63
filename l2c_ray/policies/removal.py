"""Removal of a share of the units of the paper's cache steps, blindly (arXiv 2406.01733, Figure 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from l2c_ray.config.base import Section
from l2c_ray.schedule import Table

if TYPE_CHECKING:
    from l2c_ray.caching.pipeline import Pipeline

Removed = Annotated[float, Field(ge=0, le=1)]
"""Share of the units of the cache steps that are reused, rounded to whole units."""


class RandomRemoval(Section):
    """Settings of the rule `random`."""

    removed: Removed
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0


class OneSidedRemoval(Section):
    """Settings of the rules `from-bottom` and `from-top`."""

    removed: Removed


def make_random(pipeline: Pipeline, settings: RandomRemoval) -> Table:
    """The table without units drawn uniformly from the cache steps."""
    import torch

    cache_steps, units = pipeline.solver.cache_steps(), len(pipeline.model.units)
    places = [(step, unit) for step in cache_steps for unit in range(units)]
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(settings.seed)).tolist()
    return _without(pipeline, {places[index] for index in order[: round(settings.removed * len(places))]})


def make_from_bottom(pipeline: Pipeline, settings: OneSidedRemoval) -> Table:
    """The table without the units next to the input, the same ones at every cache step."""
    count = round(settings.removed * len(pipeline.model.units))
    return _without(pipeline, {(step, unit) for step in pipeline.solver.cache_steps() for unit in range(count)})


def make_from_top(pipeline: Pipeline, settings: OneSidedRemoval) -> Table:
    """The table without the units next to the output, the same ones at every cache step."""
    units = len(pipeline.model.units)
    first = units - round(settings.removed * units)
    return _without(pipeline, {(step, unit) for step in pipeline.solver.cache_steps() for unit in range(first, units)})


def _without(pipeline: Pipeline, removed: set[tuple[int, int]]) -> Table:
    """The table that reuses at these (step, unit) alone."""
    steps, units = range(pipeline.solver.steps), range(len(pipeline.model.units))
    mask = tuple(tuple(int((step, unit) not in removed) for unit in units) for step in steps)
    return Table.of(mask, pipeline.solver.cache_steps())
