"""The search job: an Optuna study whose trials run on the cluster, and a version of every schedule on its frontier."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig
from l2c_ray.config.search import SearchConfig
from l2c_ray.distributed import cluster
from l2c_ray.distributed.frontier_publishing import FrontierPublisher, SearchResult
from l2c_ray.distributed.promotion import require_judge
from l2c_ray.distributed.run import Run
from l2c_ray.distributed.run_folder import open_storage
from l2c_ray.distributed.stopping import Stopping, ending, stops_on_sigterm
from l2c_ray.distributed.trials import RayTrials, has_workers_of_its_own, needs_of_a_trial
from l2c_ray.evaluation.frontier import OnImages
from l2c_ray.learning.progress import Progress
from l2c_ray.registry import tracking
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import model_name, require_ours
from l2c_ray.search.driver import drive
from l2c_ray.search.frontier import finished_trials, frontier
from l2c_ray.search.identity import mark_storage
from l2c_ray.search.leases import Ledger
from l2c_ray.search.results import Result
from l2c_ray.search.space import make_space
from l2c_ray.search.storage import StudyStorage, with_retries
from l2c_ray.search.study import StudyObjective, open_study
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_store

if TYPE_CHECKING:
    import optuna
    from mlflow import MlflowClient

_PUBLISHING_SECONDS = 3600.0
"""Time that another driver may take to measure and register the frontier."""


@dataclass(frozen=True)
class Status:
    """Progress of a study."""

    finished: int
    """Finished learned trials, by all drivers."""
    wanted: int
    on_frontier: int
    last: Result | None
    """Result of a trial of this driver that has just ended, if one has."""


def search(
    config: SearchConfig,
    on_start: Callable[[str, str], None],
    on_status: Callable[[Status], None],
    on_images: OnImages,
) -> SearchResult:
    """Runs trials until the study has as many as are wanted, then registers the schedules on its frontier.

    Several drivers may work on one study at once, and a killed driver may be started again: the trials that it left are
    run again, and the number of finished ones is met exactly.

    Args:
        on_start: called once, with the name of the study and the id of its MLflow run, when all has been checked.
        on_status: called when the number of finished trials has changed, or a trial of this driver has ended.
        on_images: called while the frontier is measured at the end.

    Raises:
        InvalidInputError: the config, checkpoint, storage or cluster is at fault; nothing was started.
        UnreachableError: the tracking server, the study's database or the cluster does not answer.
        SearchError: no trial has a schedule; the MLflow run is FAILED and no version is made.
        LearningStoppedError: SIGTERM ended it; its trials are given back, and the MLflow run is KILLED.
    """
    base = config.learn_config(config.corners()[0])
    pipeline = Pipeline.from_config(base.model, base.sampler)
    _require_learners(config, pipeline)
    require_judge(config.gate, pipeline.model)
    name = config.study.name or _fresh_name(base)
    store = open_store(f"{open_storage(base.run.storage).address}/{name}")
    client = tracking.connect()
    require_ours(client, model_name(pipeline.model.identity(), pipeline.solver.name, pipeline.solver.steps))
    storage = StudyStorage(name)
    cluster.connect()
    _require_room(config, base)
    study = open_study(config, name, storage)
    with_retries(lambda: _mark_storage(study, storage, store))
    with stops_on_sigterm(name, "study") as stopping:
        run = with_retries(lambda: _track(config, base, name, storage, client))
        stopping.ask_by(lambda: run.end("KILLED"))
        with ending(run):
            on_start(name, run.id)
            _run_trials(config, study, storage, store.address, stopping, on_status)
            publisher = FrontierPublisher(config, base, pipeline, study, store, client, run)
            return _publish_alone(publisher, storage, on_images)


def _mark_storage(study: optuna.Study, storage: StudyStorage, store: ObjectStore) -> None:
    with storage.lock()():
        mark_storage(study, store)


def _track(
    config: SearchConfig, base: LearnConfig, name: str, storage: StudyStorage, client: MlflowClient
) -> TrackedRun:
    """The MLflow run that all drivers of the study share."""
    with storage.lock("run")():
        return TrackedRun(client, base.run.experiment, name, config.model_dump(by_alias=True, exclude_none=True))


def _require_learners(config: SearchConfig, pipeline: Pipeline) -> None:
    """Raises ConfigError if an end of a range makes no learner for this model."""
    for learn in map(config.learn_config, config.corners()):
        Run.prepare(learn, pipeline)


def _require_room(config: SearchConfig, base: LearnConfig) -> None:
    parallel = config.study.parallel
    if has_workers_of_its_own(config):
        cluster.require(base.cluster)
        needs = cluster.needs_of_a_worker(base.cluster)
        cluster.require_places(needs, parallel * base.cluster.workers, "study.parallel")
    else:
        asked = needs_of_a_trial(config)
        cluster.require_places({"CPU": asked["num_cpus"], "GPU": asked["num_gpus"]}, parallel, "study.parallel")


def _fresh_name(base: LearnConfig) -> str:
    return f"study-{base.model.name}-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S-%f')}"


def _run_trials(
    config: SearchConfig,
    study: optuna.Study,
    storage: StudyStorage,
    store_address: str,
    stopping: Stopping,
    on_status: Callable[[Status], None],
) -> None:
    objective, settings = StudyObjective(config.objective), config.study
    # A pid may be that of a dead driver again.
    driver = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    ledger = Ledger(
        study,
        storage,
        driver,
        make_space(config.space),
        objective,
        settings.trials,
        settings.lease_seconds,
        settings.max_retries,
    )

    reported = -1

    def report(result: Result | None) -> None:
        nonlocal reported
        # Other drivers' trials count too.
        finished = ledger.count_finished()
        if result or reported != finished:
            reported = finished
            best = frontier(finished_trials(study, objective))
            on_status(Status(reported, settings.trials, len(best), result))

    with RayTrials(config, study.study_name, store_address) as executor:
        drive(
            ledger,
            executor,
            settings.parallel,
            iterations=config.learn_config(config.corners()[0]).training.iterations,
            watch=_watched(config) if settings.pruner != "none" else None,
            warm_start=settings.warm_start,
            on_change=report,
            check=stopping.check,
        )


def _watched(config: SearchConfig) -> Callable[[Progress], float]:
    """The number in a trial's progress that predicts its one objective early."""
    if config.objective.max_mse is None:
        return lambda progress: progress.error
    return lambda progress: progress.mean_score


def _publish_alone(publisher: FrontierPublisher, storage: StudyStorage, on_images: OnImages) -> SearchResult:
    """Publishes under the study's lock; idempotent if the lock is lost."""
    published = None

    def publish() -> SearchResult:
        nonlocal published
        with storage.lock("publish", _PUBLISHING_SECONDS)():
            published = published or publisher.publish(on_images)
            return published

    return with_retries(publish)
