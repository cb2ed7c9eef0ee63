"""`l2c learn`: runs the learning job and reports its results."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from l2c_ray.cli.inputs import require_pipeline, require_there
from l2c_ray.cli.json_output import print_json
from l2c_ray.cli.output import console, frontier_table, notes, print_registered, warn_of_extremes
from l2c_ray.cli.progress import progress_display
from l2c_ray.config.learn import LearnConfig
from l2c_ray.storage.files import make_writable, write_text

if TYPE_CHECKING:
    from l2c_ray.distributed.learn import LearnResult, Started
    from l2c_ray.learning.progress import Progress
    from l2c_ray.schedule import Schedule


def learn_and_report(config: LearnConfig, out: Path | None, as_json: bool) -> None:
    """Learns with a progress display, then prints the frontier and the versions, or the whole result as JSON.

    Args:
        out: a folder that the schedules are written to beside the registry, each named by its policy and compute share.
    """
    require_pipeline(config.model, config.sampler)
    require_there("data.latents", config.data.latents)
    if out:
        make_writable(out)

    from l2c_ray.distributed.learn import learn

    with progress_display() as display:

        def on_start(started: Started) -> None:
            notes.print(f"run {started.run_name}, MLflow run {started.mlflow_run_id}", soft_wrap=True)
            display.begin(_plan(config, started), "learning", started.iterations, started.done)

        def on_progress(progress: Progress) -> None:
            note = f"error {progress.error:.1e}, mean score {progress.mean_score:.2f}"
            display.update(progress.iteration, note)

        result = learn(config, on_start, on_progress, display.on_images)
    for schedule in result.schedules:
        warn_of_extremes(schedule.table, schedule.table.cache_steps)
    if out:
        for name, schedule in _named(result.schedules).items():
            write_text(out / f"{name}.json", schedule.to_json())
    if as_json:
        print_json(_as_dict(result))
        return
    console.print(frontier_table(result.comparison))
    for version in result.versions:
        print_registered(version)


def _plan(config: LearnConfig, started: Started) -> str:
    workers, batch = config.cluster.workers, config.training.batch_size
    done = f", {started.done} of them are done" if started.done else ""
    learning = f"{started.iterations} iterations of {workers * batch} images on {workers} workers{done}"
    return f"learning in {learning}; then measuring the schedules on {config.evaluation.images} images"


def _named(schedules: list[Schedule]) -> dict[str, Schedule]:
    """The schedules by a name of policy and compute share, and their hash where that is not unique."""
    named: dict[str, Schedule] = {}
    for schedule in schedules:
        name = f"{schedule.provenance.policy}-{schedule.compute_share:.3f}"
        named[f"{name}-{schedule.sha256[:8]}" if name in named else name] = schedule
    return named


def _as_dict(result: LearnResult) -> dict[str, object]:
    return {
        "run_name": result.run_name,
        "mlflow_run_id": result.mlflow_run_id,
        "versions": [asdict(version) for version in result.versions],
        "measurements": [measurement.as_dict() for measurement in result.comparison],
    }
