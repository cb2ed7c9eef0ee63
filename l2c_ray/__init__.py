"""Learns, versions and serves static caching schedules for diffusion transformers on Ray.

The names of `__all__` are the library; each is imported when it is first used, so that `import l2c_ray` is cheap.

>>> import l2c_ray
>>> pipeline = l2c_ray.Pipeline.load("digits-dit")
>>> schedule = l2c_ray.schedule_by_rule("taylor:interval=3,order=2", pipeline)
>>> images = pipeline.generate([3, 4], seeds=[7, 7], schedule=schedule)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l2c_ray.caching.pipeline import Pipeline
    from l2c_ray.library import compare, learn, load_schedule, register, schedule_by_rule
    from l2c_ray.models.zoo import load as load_model
    from l2c_ray.policies.rules import RULES
    from l2c_ray.schedule import Schedule

__all__ = [
    "RULES",
    "Pipeline",
    "Schedule",
    "compare",
    "learn",
    "load_model",
    "load_schedule",
    "register",
    "schedule_by_rule",
]

_HOMES = {
    "RULES": ("l2c_ray.policies.rules", "RULES"),
    "Pipeline": ("l2c_ray.caching.pipeline", "Pipeline"),
    "Schedule": ("l2c_ray.schedule", "Schedule"),
    "load_model": ("l2c_ray.models.zoo", "load"),
}
"""Module and attribute of the names that are not in `l2c_ray.library`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES.get(name, ("l2c_ray.library", name))
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
