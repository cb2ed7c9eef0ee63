"""The learned schedules that ship in the package."""

from importlib.resources import files
from pathlib import Path

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.evaluation.cost import fits
from l2c_ray.schedule import Schedule
from l2c_ray.storage.files import read_text

FOLDER = Path(str(files("l2c_ray.evaluation"))) / "embedded" / "schedules"


def shipped_schedules(pipeline: Pipeline) -> dict[str, Schedule]:
    """Shipped schedules that were made for the pipeline, by name; none for other weights or guidance.

    Raises:
        ScheduleError: a file is not a schedule.
    """
    folder = FOLDER / f"{pipeline.model.name}-{pipeline.solver.name}-{pipeline.solver.steps}"
    schedules = {file.stem: Schedule.from_json(read_text(file), str(file)) for file in sorted(folder.glob("*.json"))}
    return {name: schedule for name, schedule in schedules.items() if fits(schedule, pipeline)}
