"""Differences between two schedules of one model and sampler."""

from dataclasses import asdict, dataclass
from typing import Any

from l2c_ray.errors import InvalidInputError
from l2c_ray.schedule import Schedule


@dataclass(frozen=True)
class StepDifference:
    """Units of one kind that one schedule computes at a step and the other does not."""

    step: int
    kind: str
    """Kind of unit, for instance `attention`."""
    only_first: tuple[str, ...]
    """Names of the units that only the first schedule computes."""
    only_second: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """Differences between two schedules."""

    units: list[StepDifference]
    """Differences by step, and by kind in the order of a forward pass."""
    forecasts: int
    """Number of units that both reuse with different coefficients."""
    compute_share: tuple[float, float]
    metrics: dict[str, tuple[float | None, float | None]]
    """Metrics of both; None where a schedule was not measured so."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def difference(first: Schedule, second: Schedule) -> Difference:
    """Compares two schedules.

    Raises:
        InvalidInputError: their units or numbers of steps differ.
    """
    for what, mine, theirs in (
        ("units", first.model.units, second.model.units),
        ("steps", first.sampler.steps, second.sampler.steps),
    ):
        if mine != theirs:
            remedy = "take two versions of one registered model"
            raise InvalidInputError(what, "the two schedules do not have the same, so they do not compare", remedy)
    metrics = [schedule.quality.metrics if schedule.quality else {} for schedule in (first, second)]
    return Difference(
        units=_units(first, second),
        forecasts=_forecasts(first, second),
        compute_share=(first.compute_share, second.compute_share),
        metrics={name: (metrics[0].get(name), metrics[1].get(name)) for name in {**metrics[0], **metrics[1]}},
    )


def _units(first: Schedule, second: Schedule) -> list[StepDifference]:
    names = first.model.units
    kinds = dict.fromkeys(name.rpartition(".")[2] for name in names)
    found = []
    for step, (mine, theirs) in enumerate(zip(first.table.compute, second.table.compute, strict=True)):
        for kind in kinds:
            of_kind = [unit for unit, name in enumerate(names) if name.rpartition(".")[2] == kind]
            only_first = tuple(names[unit] for unit in of_kind if mine[unit] > theirs[unit])
            only_second = tuple(names[unit] for unit in of_kind if mine[unit] < theirs[unit])
            if only_first or only_second:
                found.append(StepDifference(step, kind, only_first, only_second))
    return found


def _forecasts(first: Schedule, second: Schedule) -> int:
    return sum(
        _coefficients(first, step, unit) != _coefficients(second, step, unit)
        for step, row in enumerate(first.table.compute)
        for unit, bit in enumerate(row)
        if not bit and not second.table.compute[step][unit]
    )


def _coefficients(schedule: Schedule, step: int, unit: int) -> tuple[float, ...]:
    return schedule.table.forecast[step][unit] if schedule.table.forecast else ()
