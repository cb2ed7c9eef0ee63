"""The learning job: prepare a run, train it on the cluster, build its schedules, measure them, publish them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from l2c_ray.config.learn import LearnConfig
from l2c_ray.distributed import cluster
from l2c_ray.distributed.measuring import measure_beside_rivals, with_quality
from l2c_ray.distributed.progress_log import ProgressLog
from l2c_ray.distributed.publishing import publish
from l2c_ray.distributed.run import Run
from l2c_ray.distributed.run_folder import open_storage, resume
from l2c_ray.distributed.run_monitor import open_monitor
from l2c_ray.distributed.stopping import ending, stops_on_sigterm
from l2c_ray.distributed.trainer import train_on_workers
from l2c_ray.evaluation.comparison import Comparison
from l2c_ray.evaluation.frontier import Measurement, OnImages
from l2c_ray.learning.progress import Progress
from l2c_ray.registry import tracking
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import RegisteredVersion, model_name, require_ours
from l2c_ray.schedule import LEARNED, Schedule
from l2c_ray.storage.objects import ObjectStore


@dataclass(frozen=True)
class LearnResult:
    """Results of a finished job."""

    run_name: str
    mlflow_run_id: str
    schedules: list[Schedule]
    """One for each budget or threshold, in their order."""
    versions: list[RegisteredVersion]
    """The registered version of each schedule."""
    comparison: Comparison[Measurement]
    """The learned schedules beside fewer steps at the same compute and the fixed interval."""


@dataclass(frozen=True)
class Started:
    """The state of a run before training."""

    run_name: str
    mlflow_run_id: str
    iterations: int
    """Iterations of the finished run."""
    done: int
    """Iterations of earlier sessions of the run."""


def learn(
    config: LearnConfig,
    on_start: Callable[[Started], None],
    on_progress: Callable[[Progress], None],
    on_images: OnImages,
) -> LearnResult:
    """Runs the whole job.

    The config, the checkpoint, the storage, the tracking server, the size of the cluster and the run's name are
    checked before the MLflow run begins; problems that only a worker can see (a checkpoint or a storage folder that
    another node lacks) are found when it starts.

    Args:
        on_start: called once, when everything that can be checked has been.
        on_progress: called from another thread, about twice a second during training.
        on_images: called while the schedules are measured.

    Raises:
        InvalidInputError: the config, checkpoint, storage or cluster is at fault.
        UnreachableError: the tracking server or the cluster does not answer. During training the former is waited for.
        LearningError: training or measuring broke down; the MLflow run is FAILED and no version is made.
        LearningStoppedError: SIGTERM ended it, with a checkpoint if there was time for one; the MLflow run is KILLED.
    """
    run = Run.prepare(config)
    storage = open_storage(config.run.storage)
    client = tracking.connect()
    require_ours(client, model_name(run.pipeline.model.identity(), run.pipeline.solver.name, config.sampler.steps))
    cluster.connect()
    cluster.require(config.cluster)
    name = config.run.name or _fresh_name(config)
    with stops_on_sigterm(name) as stopping, open_monitor(name) as monitor:
        done = resume(storage, name, run.lasting_settings(), config.training.iterations)
        cluster.wait_for_room(config.cluster)
        stopping.check()

        tracked = TrackedRun(client, config.run.experiment, name, config.model_dump(by_alias=True))
        stopping.ask_by(monitor.stop.remote)
        # At once: when the job has ended of itself before it was to stop, that is noted afterwards.
        stopping.ask_by(lambda: tracked.end("KILLED"))
        with ending(tracked):
            # A stop that was requested while the run was being opened reached nobody.
            stopping.check()
            # The parameters of an MLflow run are those of its first session and cannot change.
            tracked.log_file(f"config-from-{done}.json", config.model_dump_json(by_alias=True, indent=1).encode())
            on_start(Started(name, tracked.id, config.training.iterations, done))
            unlogged = _train(run, name, storage, monitor, tracked, on_progress)
            stopping.check()
            labels = [f"{LEARNED} {own}".rstrip() for own in run.objective.schedule_names("=")]
            schedules = {label: each.schedule for label, each in zip(labels, run.build_schedules(), strict=True)}
            measured = measure_beside_rivals(config, run.pipeline, schedules, on_images)
            stopping.check()
            schedules = with_quality(config, schedules, measured.comparison.schedules)
            versions = publish(run, name, schedules, measured, unlogged, client, tracked)
    return LearnResult(name, tracked.id, list(schedules.values()), versions, measured.comparison)


def _fresh_name(config: LearnConfig) -> str:
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    return f"{config.model.name}-{config.sampler.name}-{config.sampler.steps}-{now}"


def _train(
    run: Run,
    name: str,
    storage: ObjectStore,
    monitor: Any,
    tracked: TrackedRun,
    on_progress: Callable[[Progress], None],
) -> dict[int, dict[str, float]]:
    """Brings the run's learner to the workers' last state; returns the progress, by step, that MLflow did not take."""
    log = ProgressLog(tracked)

    def relay(reported: list[Progress]) -> None:
        if reported:
            on_progress(reported[-1])
        log.add(reported)

    try:
        run.learner.load_state(train_on_workers(run.config, name, storage, monitor, relay))
    finally:
        log.close()
    return log.waiting
