"""Rules by the names that the command line and a schedule's provenance use, looked up without torch.

>>> sorted(RULES)
['calibrated', 'calibrated-taylor', 'fixed-interval', 'from-bottom', 'from-top', 'random', 'taylor']
>>> parse_rule("taylor:interval=3,order=2")[1].interval
3
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from l2c_ray.caching.dynamic import DYNAMIC_RULES, DynamicRule
from l2c_ray.config.base import Section
from l2c_ray.config.overrides import value_of
from l2c_ray.errors import ConfigError
from l2c_ray.policies import calibrated, calibrated_taylor, fixed_interval, removal, taylor
from l2c_ray.policies.calibration_set import OnCalibrated
from l2c_ray.schedule import Provenance, Table

if TYPE_CHECKING:
    from l2c_ray.caching.pipeline import Pipeline

NamedSettings = tuple[str, Section]
"""A rule's name and its settings."""

Settings = TypeVar("Settings", bound=Section)


@dataclass(frozen=True)
class Rule(Generic[Settings]):
    """A policy that makes tables without learning."""

    settings: type[Settings]
    make: Callable[[Pipeline, Settings], Table]
    sweep: tuple[Settings, ...]
    """Settings that trace the rule's curve over compute shares, from much compute to little."""
    calibrate: Callable[[Pipeline, Settings, OnCalibrated], object] | None = None
    """Samples ahead what `make` would sample otherwise, and reports its progress."""


_INTERVALS = (2, 3, 4, 5)
_ALPHAS = (0.05, 0.075, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.25, 0.3, 0.5, 1.0)
_COMPUTED = (0.9, 0.75, 0.6, 0.5, 0.4, 0.35, 0.3, 0.25, 0.2)
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
    "calibrated-taylor": Rule(
        calibrated_taylor.CalibratedTaylor,
        calibrated_taylor.make,
        tuple(calibrated_taylor.CalibratedTaylor(computed=share) for share in _COMPUTED),
        calibrated_taylor.choose,
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
"""Static rules by name."""


def chosen_rules(policies: Sequence[str]) -> list[NamedSettings]:
    """Names and settings of `policies`, each written `NAME:key=value,...`, or `NAME` for all settings of its sweep.

    Raises:
        ConfigError: there is no such rule, or one of its settings is unknown, missing or out of range.
    """
    chosen: list[NamedSettings] = []
    for text in policies:
        name, _, given = text.partition(":")
        chosen += [parse_rule(text)] if given else [(name, settings) for settings in rule_of(name).sweep]
    return chosen


def every_rule() -> tuple[str, ...]:
    """The names of all rules, static ones first."""
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
    """The rule with this name.

    Raises:
        ConfigError: there is no such rule.
    """
    rules: dict[str, Rule[Any] | DynamicRule] = {**RULES, **DYNAMIC_RULES}
    if name not in rules:
        raise ConfigError("policy", f"there is no rule {name!r}", f"take one of {', '.join(rules)}")
    return rules[name]


def provenance(name: str, settings: Section) -> Provenance:
    """The provenance of a schedule that a rule made."""
    return Provenance(policy=name, settings=settings.model_dump())
