"""Running a schedule while recording which units are really computed, to compare with its table."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.models.base import UnitHandler
from l2c_ray.schedule import Table


class RecordedExecutor(Protocol):
    """An executor of one request that records which units it computed."""

    computed: list[list[int]]
    """[steps so far][units]: number of times that each unit was computed."""

    def __call__(self, step: int) -> UnitHandler:
        """The unit handler of `step`; steps must be asked for in order."""


class RecordingExecutor:
    """A `ScheduleExecutor` whose calls of the model's units are counted."""

    computed: list[list[int]]

    def __init__(self, table: Table) -> None:
        self.computed = []
        self._units = len(table.compute[0])
        self._executor = ScheduleExecutor(table)

    def __call__(self, step: int) -> UnitHandler:
        row = [0] * self._units
        self.computed.append(row)
        run = self._executor(step)

        def handle(unit: int, compute: Callable[[], Tensor]) -> Tensor:
            def counted() -> Tensor:
                row[unit] += 1
                return compute()

            return run(unit, counted)

        return handle
