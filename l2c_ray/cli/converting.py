"""`l2c schedule import` and `export`: other projects' formats to schedule files and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from l2c_ray.cli.output import warn_of_extremes
from l2c_ray.errors import InvalidInputError
from l2c_ray.interop import cache_dit, smoothcache
from l2c_ray.interop.formats import ExportFormat, ImportFormat, recognise
from l2c_ray.printable import printable
from l2c_ray.schedule import Provenance, Schedule
from l2c_ray.storage.files import read_text, write_text

if TYPE_CHECKING:
    from l2c_ray.caching.pipeline import Pipeline

_EXPORTS = {"smoothcache": smoothcache.export, "cache-dit": cache_dit.export}


def format_of(file: Path, given: ImportFormat | None, theta: float | None) -> ImportFormat:
    """The format of `file`: the given one, or the one recognised.

    Raises:
        StorageError: the file cannot be read.
        InvalidInputError: `theta` is no score, or is missing or given for a format that needs it or has none.
    """
    if theta is not None and not 0 <= theta <= 1:
        raise InvalidInputError("--threshold", f"{theta} is not in [0, 1], where scores are", "take one of the range")
    file_format = given or recognise(file)
    if file_format == "l2c-router" and theta is None:
        raise InvalidInputError("--threshold", "is missing", "give the score above which a unit is computed")
    if file_format != "l2c-router" and theta is not None:
        raise InvalidInputError("--threshold", f"a {file_format} file has no scores to compare", "leave it out")
    return file_format


def import_and_report(
    file: Path, file_format: ImportFormat, pipeline: Pipeline, theta: float | None, out: Path
) -> None:
    """Writes the schedule in `file` to `out` for the pipeline, whose model may be without weights."""
    from l2c_ray.evaluation.cost import make_schedule
    from l2c_ray.interop import l2c_router
    from l2c_ray.models.checkpoints import digest

    settings: dict[str, str | int | float | bool] = {"format": file_format}
    if theta is not None:
        table = l2c_router.read_table(file, pipeline.model, pipeline.solver, theta)
        settings["theta"] = theta
    else:
        table = smoothcache.read_table(file, pipeline.model.identity(), pipeline.solver.steps)
    settings["sha256"] = digest(file)
    warn_of_extremes(table, table.cache_steps if file_format == "l2c-router" else range(1, len(table.compute)))
    schedule = make_schedule(pipeline, table, Provenance(policy="imported", settings=settings))
    typer.echo(write_text(out, schedule.to_json()))


def export_and_report(file: Path, to: ExportFormat, out: Path | None) -> None:
    """Writes the schedule in `file` to `out`, or prints it, in another project's format."""
    exported = _EXPORTS[to](Schedule.from_json(read_text(file), source=str(file)))
    typer.echo(write_text(out, exported.text) if out else exported.text)
    for lost in exported.lost:
        typer.echo(f"lost: {printable(lost)}", err=True)
