"""`l2c search`: runs the search job and reports its results."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from l2c_ray.cli.inputs import require_pipeline, require_there
from l2c_ray.cli.json_output import print_json
from l2c_ray.cli.output import console, notes
from l2c_ray.cli.progress import progress_display
from l2c_ray.config.search import SearchConfig

if TYPE_CHECKING:
    from l2c_ray.distributed.frontier_publishing import SearchResult
    from l2c_ray.distributed.search import Status


def search_and_report(config: SearchConfig, as_json: bool) -> None:
    """Searches with a progress display, then prints the frontier with its versions, or the whole result as JSON."""
    learn = config.learn_config(config.corners()[0])
    require_pipeline(learn.model, learn.sampler)
    require_there("learn.data.latents", learn.data.latents)

    from l2c_ray.distributed.search import search

    with progress_display() as display:

        def on_start(study: str, run_id: str) -> None:
            notes.print(f"study {study}, MLflow run {run_id}", soft_wrap=True)

        def on_status(status: Status) -> None:
            if status.last and status.last.outcome in ("failed", "lost"):
                notes.print(f"a trial {status.last.outcome}: {status.last.reason}", soft_wrap=True)
            if not display.title:
                display.begin(_plan(config, status.finished), "trials", status.wanted, status.finished)
            display.update(status.finished, f"{status.on_frontier} on the frontier")

        result = search(config, on_start, on_status, display.on_images)
    if as_json:
        print_json(_as_dict(result))
        return
    console.print(_table(result, config.objective.cost))


def _plan(config: SearchConfig, finished: int) -> str:
    study, iterations = config.study, config.learn_config(config.corners()[0]).training.iterations
    done = f", {finished} of them are finished" if finished else ""
    trials = f"{study.trials} trials of {iterations} iterations, {study.parallel} at a time{done}"
    return f"searching in {trials}; then measuring the frontier"


def _table(result: SearchResult, cost: str) -> Table:
    """A table with one row for each schedule on the frontier, cheapest first."""
    title = f"study {result.study}: {len(result.frontier)} of {len(result.trials)} schedules are on the frontier"
    table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True)
    table.add_column("trial")
    for heading in dict.fromkeys((cost, "compute_share", "mse", "speed-up")):
        table.add_column(heading.replace("_", " "), justify="right", no_wrap=True)
    table.add_column("values", overflow="fold")
    table.add_column("version", overflow="fold")
    measured = result.comparison.schedules.values()
    for trial, version, its in zip(result.frontier, result.versions, measured, strict=True):
        name = f"{trial.number}" if trial.parent is None else f"{trial.number} (of {trial.parent})"
        costs = [f"{trial.cost:.3f}"] if cost == "compute_share" else [f"{trial.cost:.3f}", f"{its.compute_share:.3f}"]
        values = ", ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
        aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
        row = [name, *costs, f"{its.mse:.2e}", f"{its.speedup:.2f}x", values]
        table.add_row(*row, f"{version.name} {version.version}{aliases}")
    return table


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _as_dict(result: SearchResult) -> dict[str, object]:
    return {
        "study": result.study,
        "mlflow_run_id": result.mlflow_run_id,
        "trials": [trial.as_dict() for trial in result.trials],
        "frontier": [trial.number for trial in result.frontier],
        "versions": [asdict(version) for version in result.versions],
        "measurements": [measurement.as_dict() for measurement in result.comparison],
    }
