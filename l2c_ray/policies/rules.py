"""All rules by the names that the command line and a schedule's provenance use; they can be looked up without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from l2c_ray.caching.dynamic import DYNAMIC_RULES, DynamicRule
from l2c_ray.config.base import Section
from l2c_ray.config.overrides import value_of
from l2c_ray.errors import ConfigError
from l2c_ray.policies import calibrated, fixed_interval, removal, taylor
from l2c_ray.policies.calibrated import OnCalibrated
from l2c_ray.schedule import Provenance, Table

if TYPE_CHECKING:
    from l2c_ray.caching.pipeline import Pipeline

NamedSettings = tuple[str, Section]
"""A rule's name, and settings of it."""

Settings = TypeVar("Settings", bound=Section)


@dataclass(frozen=True)
class Rule(Generic[Settings]):
    """A policy that makes tables without learning."""

    settings: type[Settings]
    make: Callable[[Pipeline, Settings], Table]
    sweep: tuple[Settings, ...]
    """Settings that trace the rule's curve over compute shares, from much compute to little."""
    calibrate: Callable[[Pipeline, Settings, OnCalibrated], object] | None = None
    """Samples what `make` needs, telling how far it has come; what is not sampled by then `make` samples itself."""


_INTERVALS = (2, 3, 4, 5)
_ALPHAS = (0.05, 0.075, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.25, 0.3, 0.5, 1.0)
_REMOVED = (0.2, 0.4, 0.6, 0.8, 1.0)
_ONE_SIDED = tuple(removal.OneSidedRemoval(removed=share) for share in _REMOVED)

RULES: dict[str, Rule[Any]] = {
    "fixed-interval": Rule(
        fixed_interval.FixedInterval,
        fixed_interval.make,
        tuple(fixed_interval.FixedInterval(interval=interval) for interval in _INTERVALS),
    ),
    "taylor": Rule(
        taylor.Taylor,
        taylor.make,
        tuple(taylor.Taylor(interval=interval, order=order) for order in (1, 2) for interval in _INTERVALS),
    ),
    "calibrated": Rule(
        calibrated.Calibrated,
        calibrated.make,
        tuple(calibrated.Calibrated(alpha=alpha, by=by) for by in calibrated.GROUPINGS for alpha in _ALPHAS),
        calibrated.calibrate,
    ),
    "random": Rule(
        removal.RandomRemoval,
        removal.make_random,
        tuple(removal.RandomRemoval(removed=share) for share in _REMOVED),
    ),
    "from-bottom": Rule(removal.OneSidedRemoval, removal.make_from_bottom, _ONE_SIDED),
    "from-top": Rule(removal.OneSidedRemoval, removal.make_from_top, _ONE_SIDED),
}


def chosen_rules(policies: Sequence[str]) -> list[NamedSettings]:
    """The rules that `policies` names, each as `NAME:key=value,...`, or as `NAME` for all settings of its curve.

    Raises:
        ConfigError: there is no such rule, or one of its settings is unknown, missing or out of range.
    """
    chosen: list[NamedSettings] = []
    for text in policies:
        name, _, given = text.partition(":")
        chosen += [parse_rule(text)] if given else [(name, settings) for settings in rule_of(name).sweep]
    return chosen


def every_rule() -> tuple[str, ...]:
    """The names of all rules, those that make schedules first."""
    return (*RULES, *DYNAMIC_RULES)


def parse_rule(text: str) -> tuple[str, Section]:
    """The name and settings of a rule of `RULES` or `DYNAMIC_RULES`, from `name:key=value,key=value`.

    Raises:
        ConfigError: there is no such rule, or one of its settings is unknown, missing, given twice or out of range.
    """
    name, _, given = text.partition(":")
    settings = rule_of(name).settings
    values: dict[str, Any] = {}
    for setting in given.split(",") if given else ():
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"{setting!r} in {text}", "is not a setting", f"write {name}:key=value,key=value")
        if key in values:
            raise ConfigError(f"{name}.{key} in {text}", "is given twice", "give it once")
        values[key] = value_of(f"{name}.{key}", value)
    return name, settings.parse(values, source=text, table=name)


def rule_of(name: str) -> Rule[Any] | DynamicRule:
    """The rule of a name.

    Raises:
        ConfigError: there is none.
    """
    rules: dict[str, Rule[Any] | DynamicRule] = {**RULES, **DYNAMIC_RULES}
    if name not in rules:
        raise ConfigError("policy", f"there is no rule {name!r}", f"take one of {', '.join(rules)}")
    return rules[name]


def provenance(name: str, settings: Section) -> Provenance:
    """What a schedule says of the rule that made it."""
    return Provenance(policy=name, settings=settings.model_dump())
