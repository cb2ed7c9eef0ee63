"""Runs a schedule: computes what its mask says, and takes the rest from the last time it was computed."""

from collections.abc import Callable

from torch import Tensor

from l2c_ray.caching.plan import Action, Plan, plan
from l2c_ray.models.base import Branch
from l2c_ray.schedule import Mask


class ScheduleExecutor:
    """The branches of one request. Holds that request's cache, so every request needs an executor of its own."""

    def __init__(self, mask: Mask) -> None:
        self._plan: Plan = plan(mask)
        self._kept: dict[int, Tensor] = {}

    def __call__(self, step: int) -> Branch:
        """The branch that runs the units of `step`; steps must be asked for in order."""
        actions = self._plan[step]

        def branch(unit: int, compute: Callable[[], Tensor]) -> Tensor:
            match actions[unit]:
                case Action.COMPUTE:
                    return compute()
                case Action.COMPUTE_AND_KEEP:
                    self._kept[unit] = compute()
                    return self._kept[unit]
                case Action.REUSE:
                    return self._kept[unit]
                case Action.REUSE_AND_DROP:
                    return self._kept.pop(unit)

        return branch
