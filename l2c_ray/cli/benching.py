"""`l2c bench`: times a schedule against the baseline in this process and reports the speed-up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from l2c_ray.cli.inputs import Weights
from l2c_ray.cli.json_output import print_json
from l2c_ray.cli.output import console
from l2c_ray.cli.progress import progress_display
from l2c_ray.models import zoo
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Schedule
from l2c_ray.storage.files import read_text

if TYPE_CHECKING:
    from l2c_ray.caching.pipeline import Pipeline
    from l2c_ray.evaluation.timing import Timing


def bench_and_report(
    name: str,
    weights: Weights,
    schedule_file: Path,
    batch_size: int,
    repeats: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Times baseline and cached sampling in turn, then prints both beside the speed-up that the schedule promises."""
    weights.require_possible(name)
    schedule = Schedule.from_json(read_text(schedule_file), source=str(schedule_file))

    import torch

    from l2c_ray.evaluation.timing import time_in_turn

    pipeline = _pipeline_of(schedule, name, weights)
    if threads is not None:
        torch.set_num_threads(threads)
    with progress_display() as display:
        steps = pipeline.solver.steps
        plan = f"timing {repeats} pairs of a baseline and a cached run of {batch_size} images, {steps} steps each"
        display.begin(plan, "timing", repeats * steps)
        timing = time_in_turn(pipeline, schedule, batch_size, repeats, display.update)
    result = {"model": name, **_setting(pipeline, weights, batch_size), **_measured(timing)}
    if as_json:
        print_json(result)
    else:
        console.print(_table(result))


def _pipeline_of(schedule: Schedule, name: str, weights: Weights) -> Pipeline:
    """The model under the schedule's own sampler, steps and guidance."""
    from l2c_ray.caching.pipeline import Pipeline
    from l2c_ray.evaluation.cost import require_fit

    if schedule.model.name != name:
        # Refused before any weights are made or read, which takes a while.
        schedule.require(zoo.skeleton(name).identity(), schedule.sampler)
    model = weights.load(name)
    solver = make_solver(schedule.sampler.name, schedule.sampler.steps, model)
    pipeline = Pipeline(model, solver, schedule.sampler.guidance)
    require_fit(schedule, pipeline)
    return pipeline


def _setting(pipeline: Pipeline, weights: Weights, batch_size: int) -> dict[str, Any]:
    import torch

    from l2c_ray.caching.profiling import device_name

    return {
        "sampler": pipeline.solver.name,
        "steps": pipeline.solver.steps,
        "guidance": str(pipeline.guidance),
        "batch_size": batch_size,
        "dtype": weights.dtype,
        "device": device_name(torch.device(weights.device)),
    }


def _measured(timing: Timing) -> dict[str, Any]:
    return {
        "full_seconds": timing.baseline,
        "cached_seconds": timing.cached,
        "speedups": timing.speedups,
        "speedup": timing.speedup,
        "promised_speedup": timing.promised,
        "measured_over_promised": timing.kept,
    }


def _table(result: dict[str, Any]) -> Table:
    table = Table(title="baseline and cached sampling in turn", show_header=False)
    for key, value in result.items():
        table.add_row(key.replace("_", " "), _readable(value))
    return table


def _readable(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(_readable(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
