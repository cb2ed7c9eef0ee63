"""Schedules with their cost, and the check that a schedule costs what it says."""

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.errors import ScheduleError
from l2c_ray.models.macs import count_macs
from l2c_ray.schedule import Provenance, Schedule, Table


def make_schedule(pipeline: Pipeline, table: Table, provenance: Provenance) -> Schedule:
    """The schedule of a table for this model and sampler, with its cost counted."""
    model, solver = pipeline.model, pipeline.solver
    cost = count_macs(model).cost(table.compute)
    return Schedule.create(model.identity(), solver.identity(pipeline.guidance), table, provenance, cost)


def require_fit(schedule: Schedule, pipeline: Pipeline) -> None:
    """Refuses a schedule that was not made for this model and sampler, or that costs something else than it says.

    Raises:
        ScheduleError: names the first field that differs.
    """
    model = pipeline.model
    schedule.require(model.identity(), pipeline.solver.identity(pipeline.guidance))
    counted = count_macs(model).cost(schedule.table.compute)
    for count in ("layers", "with_attention"):
        said, found = getattr(schedule.cost, count), getattr(counted, count)
        if said != found:
            raise ScheduleError(
                f"cost.{count}",
                f"the schedule says {said}, but on {model.name} it is {found}",
                "use a schedule learned for this model",
            )


def fits(schedule: Schedule, pipeline: Pipeline) -> bool:
    """Whether `require_fit` lets it pass."""
    try:
        require_fit(schedule, pipeline)
    except ScheduleError:
        return False
    return True
