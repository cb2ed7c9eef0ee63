"""Schedules with their cost, and the check that a schedule has the cost that it states."""

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
    """Refuses a schedule that was not made for this model and sampler, or whose cost is not the stated one.

    Raises:
        ScheduleError: names the first field that differs.
    """
    model = pipeline.model
    pipeline.require_made_for(schedule)
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
    """Whether the schedule was made for this model and sampler and has the stated cost."""
    try:
        require_fit(schedule, pipeline)
    except ScheduleError:
        return False
    return True
