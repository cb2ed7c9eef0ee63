"""The search space: Optuna's distributions of the config's ranges, and the distance between two trials."""

import math
from collections.abc import Mapping
from typing import Any, cast

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from l2c_ray.config.search import RangeSection

Space = dict[str, BaseDistribution]
"""Distributions by dotted key of a LearnConfig."""


def make_space(ranges: Mapping[str, RangeSection]) -> Space:
    """The distributions from which Optuna draws the values of a trial."""
    return {key: _distribution(found) for key, found in ranges.items()}


def distance(space: Space, first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """Euclidean distance between two trials, each coordinate scaled to [0, 1], logarithmically where its range is.

    Equal choices are 0 apart, and others 1.
    """
    return math.hypot(*(_apart(space[key], first[key], second[key]) for key in space))


def _distribution(found: RangeSection) -> BaseDistribution:
    if found.choices is not None:
        return CategoricalDistribution(found.choices)
    # The config has checked that both are given.
    low, high = cast(float, found.low), cast(float, found.high)
    if found.is_whole:
        return IntDistribution(int(low), int(high), log=found.log, step=int(found.step or 1))
    return FloatDistribution(low, high, log=found.log, step=found.step)


def _apart(distribution: BaseDistribution, first: Any, second: Any) -> float:
    if isinstance(distribution, FloatDistribution | IntDistribution):
        scale = math.log if distribution.log else float
        return (scale(first) - scale(second)) / (scale(distribution.high) - scale(distribution.low))
    return float(first != second)
