"""From the formats of other projects to schedule files and back, telling what is odd or lost on the way."""

from pathlib import Path

import typer

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.errors import InvalidInputError
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.interop import cache_dit, l2c_router, smoothcache
from l2c_ray.interop.formats import ExportFormat, ImportFormat, recognise
from l2c_ray.models.checkpoints import digest
from l2c_ray.schedule import Provenance, Schedule, Table
from l2c_ray.storage.files import read_text, write_text

_EXPORTS = {"smoothcache": smoothcache.export, "cache-dit": cache_dit.export}


def import_and_report(
    file: Path, given_format: ImportFormat | None, pipeline: Pipeline, theta: float | None, out: Path
) -> None:
    """Writes the schedule in `file` to `out`, made for the pipeline, whose model may be without weights."""
    file_format = given_format or recognise(file)
    settings: dict[str, str | int | float | bool] = {"format": file_format}
    if file_format == "l2c-router":
        if theta is None:
            raise InvalidInputError("--threshold", "is missing", "give the score above which a unit is computed")
        table = l2c_router.read_table(file, pipeline.model, pipeline.solver, theta)
        settings["theta"] = theta
    else:
        if theta is not None:
            raise InvalidInputError("--threshold", f"a {file_format} file has no scores to compare", "leave it out")
        table = smoothcache.read_table(file, pipeline.model.identity(), pipeline.solver.steps)
    settings["sha256"] = digest(file)
    _warn_of_extremes(table)
    schedule = make_schedule(pipeline, table, Provenance(policy="imported", settings=settings))
    typer.echo(write_text(out, schedule.to_json()))


def export_and_report(file: Path, to: ExportFormat, out: Path | None) -> None:
    """Writes the schedule in `file` to `out`, or prints it, in another project's format."""
    exported = _EXPORTS[to](Schedule.from_json(read_text(file), source=str(file)))
    typer.echo(write_text(out, exported.text) if out else exported.text)
    for lost in exported.lost:
        typer.echo(f"lost: {lost}", err=True)


def _warn_of_extremes(table: Table) -> None:
    computed = [any(table.compute[step]) for step in table.cache_steps]
    if all(all(row) for row in table.compute):
        typer.echo("warning: the schedule removes nothing: every unit is computed at every step", err=True)
    elif not any(computed):
        typer.echo("warning: the schedule removes everything: no unit is computed at any cache step", err=True)
