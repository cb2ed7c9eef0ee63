"""What computing a unit costs, whatever it is counted in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from l2c_ray.config.profile import Profile
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.macs import count_macs


class UnitCosts(Protocol):
    """Of one evaluation, in any unit."""

    @property
    def units(self) -> Sequence[float]:
        """Of each unit: what reusing it gives back."""

    @property
    def shared(self) -> float:
        """Of everything that no schedule can skip."""


@dataclass(frozen=True)
class UnitSeconds:
    """Those of a profile."""

    units: tuple[float, ...]
    shared: float


def costs_by(profile: Profile | None, model: CacheableTransformer) -> UnitCosts:
    """Time on the profile's device, or multiply-accumulates without one.

    Raises:
        ConfigError: the profile was not measured on this model.
    """
    if profile is None:
        return count_macs(model).with_attention
    profile.require(model.name, [unit.name for unit in model.units])
    return UnitSeconds(tuple(profile.units.values()), profile.shared)
