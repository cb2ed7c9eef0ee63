"""The last step of a learning job: its results as metrics, artifacts and registered versions in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.distributed.measuring import MeasuredSchedules
from l2c_ray.distributed.run import Run
from l2c_ray.evaluation.frontier import FIRST_SEED, beats_fewer_steps
from l2c_ray.evaluation.plots import plot_frontier, plot_schedule
from l2c_ray.registry.delivery import Results, deliver
from l2c_ray.registry.lineage import Lineage
from l2c_ray.registry.registration import HEATMAP_FILE, Registration
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import SCHEDULE_FILE, RegisteredVersion
from l2c_ray.schedule import Schedule
from l2c_ray.strict_json import lenient

if TYPE_CHECKING:
    from mlflow import MlflowClient

FRONTIER_FILE = "frontier.png"
"""Artifact of a run: the plot of its comparison."""

_Metrics = Mapping[int, Mapping[str, float]]
"""Metrics by step."""


def publish(
    run: Run,
    run_name: str,
    schedules: Mapping[str, Schedule],
    measured: MeasuredSchedules,
    unlogged: _Metrics,
    client: MlflowClient,
    tracked: TrackedRun,
) -> list[RegisteredVersion]:
    """Logs the results of a run and registers a version of each schedule.

    Args:
        schedules: by name, with their quality.
        unlogged: progress that MLflow has not taken yet.

    Raises:
        UnreachableError: the tracking server does not answer; the results are kept in a file.
    """
    config = run.config
    parents = run.objective.parents([schedule.sha256 for schedule in schedules.values()])
    registrations = []
    for (name, schedule), parent in zip(schedules.items(), parents, strict=True):
        lineage = Lineage(
            run=run_name,
            run_id=tracked.id,
            config=config.model_dump(mode="json", by_alias=True),
            data=run.objective.describe_data(run.data),
            seeds={"learning": config.run.seed, "first image measured": FIRST_SEED},
            parent=parent,
        )
        registrations.append(make_registration(run.pipeline, name, schedule, lineage, measured))
    results = Results(
        experiment=config.run.experiment,
        run=run_name,
        metrics=_metrics(unlogged, measured),
        artifacts=frontier_artifacts(measured) | _schedule_artifacts(run, schedules),
        registrations=registrations,
    )
    return deliver(client, tracked, results)


def make_registration(
    pipeline: Pipeline,
    name: str,
    schedule: Schedule,
    lineage: Lineage,
    measured: MeasuredSchedules,
    *,
    chosen: bool = False,
) -> Registration:
    """The registration of the schedule that has this name among the measured ones.

    Args:
        chosen: whether the schedule was chosen by this very measurement.
    """
    return Registration(
        schedule=schedule,
        lineage=lineage,
        image_shape=pipeline.model.image_shape,
        metrics={"speedup": measured.comparison.schedules[name].speedup},
        samples=measured.samples.get(name),
        worth_serving=beats_fewer_steps(measured.comparison, name),
        chosen=chosen,
    )


def frontier_artifacts(measured: MeasuredSchedules) -> dict[str, bytes]:
    """Plot and table of a comparison, by file name."""
    comparison = measured.comparison
    return {
        FRONTIER_FILE: plot_frontier(comparison),
        "frontier.json": lenient([measurement.as_dict() for measurement in comparison]).encode(),
    }


def _metrics(unlogged: _Metrics, measured: MeasuredSchedules) -> dict[int, dict[str, float]]:
    """Results of each schedule, with its place among the schedules as the step, and the unlogged progress."""
    metrics = {step: dict(values) for step, values in unlogged.items()}
    for number, its in enumerate(measured.comparison.schedules.values()):
        results = {"compute_share": its.compute_share, "speedup": its.speedup, "mse": its.mse}
        metrics.setdefault(number, {}).update(results)
    return metrics


def _schedule_artifacts(run: Run, schedules: Mapping[str, Schedule]) -> dict[str, bytes]:
    artifacts = {}
    for folder, schedule in zip(run.objective.schedule_names("-"), schedules.values(), strict=True):
        artifacts[str(Path(folder, SCHEDULE_FILE))] = schedule.to_json().encode()
        # The router's last scores are only those of a single schedule.
        scores = None if folder else run.learner.score_table()
        artifacts[str(Path(folder, HEATMAP_FILE))] = plot_schedule(schedule, scores)
    return artifacts
