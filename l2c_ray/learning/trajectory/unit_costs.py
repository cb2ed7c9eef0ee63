"""Costs of a model's units: multiply-accumulates, or the seconds of a profile."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from l2c_ray.config.profile import Profile
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.macs import count_macs


class UnitCosts(Protocol):
    """Costs of one evaluation, all in the same measure."""

    @property
    def units(self) -> Sequence[float]:
        """Cost of each unit that its reuse saves."""

    @property
    def shared(self) -> float:
        """Cost of everything that no schedule can skip."""


@dataclass(frozen=True)
class UnitSeconds:
    """`UnitCosts` in seconds."""

    units: tuple[float, ...]
    shared: float


def costs_by(profile: Profile | None, model: CacheableTransformer) -> UnitCosts:
    """Seconds on the profile's device, or multiply-accumulates without a profile.

    Raises:
        ConfigError: the profile was not measured on this model.
    """
    if profile is None:
        return count_macs(model).with_attention
    profile.require(model.name, [unit.name for unit in model.units])
    return UnitSeconds(tuple(profile.units.values()), profile.shared)
