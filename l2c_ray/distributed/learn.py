"""The main job: learn a router on the cluster, threshold it, measure the schedule, and make it a version."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig
from l2c_ray.data import digits
from l2c_ray.distributed import cluster
from l2c_ray.distributed.sampling import ClusterSampler
from l2c_ray.distributed.trainer import train
from l2c_ray.errors import ConfigError, LearningStoppedError
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.evaluation.frontier import Measurement, measure, standard_candidates
from l2c_ray.evaluation.plots import plot_frontier, plot_schedule
from l2c_ray.learning.learner import Progress
from l2c_ray.learning.router import Router
from l2c_ray.learning.state import unpack_module
from l2c_ray.models import zoo
from l2c_ray.registry import tracking
from l2c_ray.registry.lineage import git_commit
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import SCHEDULE_FILE, RegisteredVersion, register
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Provenance, Schedule
from l2c_ray.storage.files import home, make_writable, read_text, write_text

LEARNED = "learned"
HEATMAP_FILE = "heatmap.png"
FRONTIER_FILE = "frontier.png"


@dataclass(frozen=True)
class LearnResult:
    """What a finished job leaves behind."""

    run_name: str
    mlflow_run_id: str
    schedule: Schedule
    version: RegisteredVersion
    measurements: list[Measurement]
    """Of the full run, the learned schedule, fewer steps at the same compute, and the fixed interval."""


@dataclass(frozen=True)
class Started:
    """What is known before learning starts."""

    run_name: str
    mlflow_run_id: str
    iterations: int


def learn(
    config: LearnConfig, on_start: Callable[[Started], None], on_progress: Callable[[Progress], None]
) -> LearnResult:
    """Runs the whole job. Everything that can be wrong with the input is found before learning starts.

    Raises:
        InvalidInputError: of the kind that the config, checkpoint, storage or cluster calls for.
        UnreachableError: the tracking server or the cluster does not answer.
        LearningError: learning broke down; the MLflow run is FAILED and no version is made.
        LearningStoppedError: it was stopped with a checkpoint; the MLflow run is KILLED.
    """
    pipeline = _load_pipeline(config)
    storage = make_writable(Path(config.run.storage) if config.run.storage else home() / "runs")
    client = tracking.connect()
    cluster.connect()
    cluster.require(config.cluster)
    name = config.run.name or _fresh_name(config)
    _remember_settings(config, name, storage)

    run = TrackedRun(client, config.run.experiment, name, config.model_dump(by_alias=True))
    on_start(Started(name, run.id, config.training.iterations))
    with _ending(run):
        router = _train_router(config, name, storage, pipeline, run, on_progress)
        provenance = Provenance(policy=LEARNED, settings=_settings(config), git_commit=git_commit())
        schedule = make_schedule(pipeline, router.threshold(config.router.theta), provenance)
        measurements = _measure(config, pipeline, schedule)
        _, learned, fewer_steps, _ = measurements
        schedule = schedule.with_quality(learned.quality(config.evaluation.images))
        _log_results(run, schedule, router.score_table(), measurements)
        version = register(
            client,
            schedule,
            run.id,
            pipeline.model.image_shape,
            tags={"run": name, "speedup": f"{learned.speedup:.3f}"},
            # Whoever wants this much compute can have it without a schedule.
            worth_serving=learned.mse < fewer_steps.mse,
        )
    return LearnResult(name, run.id, schedule, version, measurements)


def _load_pipeline(config: LearnConfig) -> Pipeline:
    checkpoint = Path(config.model.checkpoint) if config.model.checkpoint else None
    model = zoo.load(config.model.name, checkpoint)
    solver = make_solver(config.sampler.name, config.sampler.steps, model.scheduler)
    return Pipeline(model, solver, config.sampler.guidance_scale)


def _fresh_name(config: LearnConfig) -> str:
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    return f"{config.model.name}-{config.sampler.name}-{config.sampler.steps}-{now}"


def _settings(config: LearnConfig) -> dict[str, str | int | float | bool]:
    """What makes the same schedule again on one worker of the same kind."""
    return {
        "objective": "pair",
        "lambda": config.router.sparsity_weight,
        "theta": config.router.theta,
        "initial_logit": config.router.initial_logit,
        "iterations": config.training.iterations,
        "batch_size": config.training.batch_size,
        "learning_rate": config.training.learning_rate,
        "workers": config.cluster.workers,
        "seed": config.run.seed,
    }


def _remember_settings(config: LearnConfig, name: str, storage: Path) -> None:
    """Refuses to go on with a run that other settings began. Theta and the number of iterations may change."""
    free = ("theta", "iterations")
    settings = {key: value for key, value in _settings(config).items() if key not in free}
    settings |= config.model.model_dump() | {f"sampler.{key}": value for key, value in config.sampler}
    path = storage / name / "settings.json"
    if path.exists():
        before: dict[str, Any] = json.loads(read_text(path))
        for key, value in settings.items():
            if before.get(key) != value:
                problem = f"run {name} was begun with {key} = {before.get(key)}, not {value}"
                raise ConfigError("run.name", problem, "choose another name or the same settings")
    write_text(path, json.dumps(settings, indent=1) + "\n")


@contextmanager
def _ending(run: TrackedRun) -> Iterator[None]:
    """Marks the MLflow run as ended, whatever happens inside."""
    try:
        yield
    except (LearningStoppedError, SystemExit, KeyboardInterrupt):
        run.end("KILLED")
        raise
    except BaseException:
        run.end("FAILED")
        raise
    run.end("FINISHED")


def _train_router(
    config: LearnConfig,
    name: str,
    storage: Path,
    pipeline: Pipeline,
    run: TrackedRun,
    on_progress: Callable[[Progress], None],
) -> Router:
    def relay(news: list[Progress]) -> None:
        run.log_metrics({progress.iteration: _finite_metrics(progress) for progress in news})
        if news:
            on_progress(news[-1])

    state = train(config, name, storage, relay)
    router = Router(pipeline.solver.steps, len(pipeline.model.units), config.router.initial_logit)
    unpack_module(state, router)
    return router


def _finite_metrics(progress: Progress) -> dict[str, float]:
    metrics = {"error": progress.error, "loss": progress.loss, "mean_score": progress.mean_score}
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _measure(config: LearnConfig, pipeline: Pipeline, schedule: Schedule) -> list[Measurement]:
    candidates = standard_candidates(pipeline, {LEARNED: schedule})
    with ClusterSampler(config) as sample:
        return measure(
            candidates, sample, config.evaluation.images, pipeline.model.num_classes, real=digits.load().images
        )


def _log_results(run: TrackedRun, schedule: Schedule, scores: Tensor, measurements: list[Measurement]) -> None:
    learned = measurements[1]
    metrics = {"compute_share": learned.compute_share, "speedup": learned.speedup, "mse": learned.mse}
    run.log_metrics({0: metrics})
    run.log_file(SCHEDULE_FILE, schedule.to_json().encode())
    run.log_file(HEATMAP_FILE, plot_schedule(schedule, scores))
    run.log_file(FRONTIER_FILE, plot_frontier(measurements))
    rows = json.dumps([measurement.as_dict() for measurement in measurements], indent=1)
    run.log_file("frontier.json", rows.encode())
