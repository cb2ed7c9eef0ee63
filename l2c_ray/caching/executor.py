"""Running a schedule: units are computed where its table says so, and else made of the values computed last."""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from l2c_ray.caching.plan import Plan, plan
from l2c_ray.models.base import UnitHandler
from l2c_ray.schedule import Table


class ScheduleExecutor:
    """The unit handlers of one request. Holds that request's cache, so every request needs an executor of its own."""

    def __init__(self, table: Table) -> None:
        self._plan: Plan = plan(table)
        self._computed: defaultdict[int, list[Tensor]] = defaultdict(list)

    def __call__(self, step: int) -> UnitHandler:
        """The unit handler of `step`; steps must be asked for in order."""
        actions = self._plan[step]

        def handle(unit: int, compute: Callable[[], Tensor]) -> Tensor:
            action, values = actions[unit], self._computed[unit]
            if action.weights is None:
                values.insert(0, compute())
                output = values[0]
            else:
                output = weighted_sum(values, action.weights)
            del values[action.keep :]
            return output

        return handle


def weighted_sum(values: list[Tensor], weights: tuple[float, ...]) -> Tensor:
    """Sum of the first `len(weights)` values by their weights; the first value itself for the single weight 1."""
    if weights == (1.0,):
        return values[0]
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=False):
        total = torch.add(total, value, alpha=weight)
    return total
