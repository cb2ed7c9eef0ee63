"""Runs the frontier protocol in this process and tells what comes of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer
from torch import Tensor

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.cli.output import console, frontier_table, progress_display
from l2c_ray.data import digits
from l2c_ray.evaluation.frontier import Candidate, Sampler, measure, standard_candidates
from l2c_ray.evaluation.plots import plot_frontier
from l2c_ray.schedule import Schedule
from l2c_ray.storage.files import make_writable, write_bytes, write_text

_BATCH_SIZE = 64


def compare_and_report(
    pipeline: Pipeline, schedules: Mapping[str, Schedule], images: int, out: Path | None, as_json: bool
) -> None:
    """Measures the schedules and the rules to beat; prints a table or JSON, and writes both and a plot to `out`."""
    if out:
        make_writable(out)
    candidates = standard_candidates(pipeline, schedules)
    sampler = Sampler(pipeline.model, pipeline.solver.name, pipeline.guidance, _BATCH_SIZE)
    with progress_display("comparing", len(candidates)) as display:
        done = 0

        def sample(candidate: Candidate, labels: Sequence[int], seeds: Sequence[int]) -> tuple[Tensor, float]:
            nonlocal done
            made = sampler(candidate, labels, seeds)
            done += 1
            display.update(done, candidate.name)
            return made

        measurements = measure(candidates, sample, images, pipeline.model.num_classes, digits.load().images)
    rows = json.dumps([measurement.as_dict() for measurement in measurements], indent=1)
    if as_json:
        typer.echo(rows)
    else:
        console.print(frontier_table(measurements))
    if out:
        write_text(out / "frontier.json", rows + "\n")
        write_bytes(out / "frontier.png", plot_frontier(measurements))
