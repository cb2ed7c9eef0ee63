"""The main job: learn a router on the cluster, threshold it, measure the schedule, and make it a version."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig
from l2c_ray.data.training import open_training_images
from l2c_ray.distributed import cluster
from l2c_ray.distributed.mailbox import open_mailbox
from l2c_ray.distributed.measuring import FRONTIER_FILE, is_worth_serving, measure_all
from l2c_ray.distributed.progress_log import ProgressLog
from l2c_ray.distributed.run_folder import go_on_with, open_storage
from l2c_ray.distributed.stopping import stops_on_sigterm
from l2c_ray.distributed.trainer import train
from l2c_ray.errors import LearningStoppedError
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.evaluation.frontier import FIRST_SEED, Measurement, OnImages
from l2c_ray.evaluation.plots import plot_frontier, plot_schedule
from l2c_ray.learning.learner import Learner
from l2c_ray.learning.objectives import Objective, Settings, make_objective
from l2c_ray.learning.progress import Progress
from l2c_ray.models import zoo
from l2c_ray.registry import tracking
from l2c_ray.registry.delivery import Results, deliver
from l2c_ray.registry.lineage import Lineage, git_commit
from l2c_ray.registry.registration import HEATMAP_FILE, Registration
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import SCHEDULE_FILE, RegisteredVersion, model_name, require_ours
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import LEARNED, Provenance, Schedule
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.strict_json import lenient


@dataclass(frozen=True)
class LearnResult:
    """What a finished job leaves behind."""

    run_name: str
    mlflow_run_id: str
    schedules: list[Schedule]
    """One for each budget or threshold, in their order."""
    versions: list[RegisteredVersion]
    """As which they were registered."""
    measurements: list[Measurement]
    """Of the full run, the learned schedules, fewer steps at the same compute, and the fixed interval."""


@dataclass(frozen=True)
class Started:
    """What is known before learning starts."""

    run_name: str
    mlflow_run_id: str
    iterations: int
    """In the end."""
    done: int
    """By earlier sessions of the run."""


def learn(
    config: LearnConfig,
    on_start: Callable[[Started], None],
    on_progress: Callable[[Progress], None],
    on_images: OnImages,
) -> LearnResult:
    """Runs the whole job.

    The config, the checkpoint, the storage, the tracking server, the size of the cluster and what the run's name
    stands for are checked before the MLflow run begins; what only a worker can see (a checkpoint or a storage folder
    that another node lacks) is found when it starts.

    Args:
        on_start: called once, when everything that can be checked has been.
        on_progress: called from another thread, about twice a second while learning goes on.
        on_images: called while what was learned is measured.

    Raises:
        InvalidInputError: of the kind that the config, checkpoint, storage or cluster calls for.
        UnreachableError: the tracking server or the cluster does not answer. While learning goes on the former is
            waited for.
        LearningError: learning or measuring broke down; the MLflow run is FAILED and no version is made.
        LearningStoppedError: SIGTERM ended it, with a checkpoint if there was time for one; the MLflow run is KILLED.
    """
    pipeline = load_pipeline(config)
    data = open_training_images(config)
    objective = make_objective(config)
    learner = objective.make_learner(pipeline.model, pipeline.solver, data)
    lasting = objective.lasting_settings() | data.settings() | _identities(config, pipeline)
    storage = open_storage(config.run.storage)
    client = tracking.connect()
    require_ours(client, model_name(pipeline.model.identity(), pipeline.solver.name, pipeline.solver.steps))
    cluster.connect()
    cluster.require(config.cluster)
    name = config.run.name or _fresh_name(config)
    with stops_on_sigterm(name) as stopping, open_mailbox(name) as mailbox:
        done = go_on_with(storage, name, lasting, config.training.iterations)
        cluster.wait_for_room(config.cluster)
        stopping.check()

        run = TrackedRun(client, config.run.experiment, name, config.model_dump(by_alias=True))
        stopping.ask_by(mailbox.request_stop.remote)
        # At once: when the job has ended of itself before it was to stop, that is noted afterwards.
        stopping.ask_by(lambda: run.end("KILLED"))
        with ending(run):
            # Whoever asked while the run was being opened asked nobody.
            stopping.check()
            # The parameters of an MLflow run are those of its first session and cannot change.
            run.log_file(f"config-from-{done}.json", config.model_dump_json(by_alias=True, indent=1).encode())
            on_start(Started(name, run.id, config.training.iterations, done))
            untold = _train(learner, config, name, storage, mailbox, run, on_progress)
            stopping.check()
            schedules = _make_schedules(objective, pipeline, learner, {**objective.settings(), **data.settings()})
            names = [f"{LEARNED} {own}".rstrip() for own in objective.schedule_names("=")]
            measurements, samples = measure_all(config, pipeline, dict(zip(names, schedules, strict=True)), on_images)
            stopping.check()
            learned = measurements[1 : 1 + len(schedules)]
            schedules = [
                schedule.with_quality(measured.quality(config.evaluation.images))
                for schedule, measured in zip(schedules, learned, strict=True)
            ]
            lineages = _lineages(objective, run, name, objective.describe_data(data), schedules)
            results = Results(
                experiment=config.run.experiment,
                run=name,
                metrics=_metrics(untold, learned),
                artifacts=_artifacts(objective.schedule_names("-"), schedules, learner.score_table(), measurements),
                registrations=[
                    Registration(
                        schedule=schedule,
                        lineage=lineage,
                        image_shape=pipeline.model.image_shape,
                        metrics={"speedup": measured.speedup},
                        samples=grid,
                        worth_serving=is_worth_serving(measured, measurements),
                    )
                    for schedule, measured, lineage, grid in zip(schedules, learned, lineages, samples, strict=True)
                ],
            )
            versions = deliver(client, run, results)
    return LearnResult(name, run.id, schedules, versions, measurements)


def load_pipeline(config: LearnConfig) -> Pipeline:
    """The model and sampler that the config names."""
    checkpoint = Path(config.model.checkpoint) if config.model.checkpoint else None
    model = zoo.load(config.model.name, checkpoint)
    solver = make_solver(config.sampler.name, config.sampler.steps, model)
    return Pipeline(model, solver, config.sampler.guidance)


def _fresh_name(config: LearnConfig) -> str:
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    return f"{config.model.name}-{config.sampler.name}-{config.sampler.steps}-{now}"


_Metrics = dict[int, dict[str, float]]
"""By step."""


def _identities(config: LearnConfig, pipeline: Pipeline) -> dict[str, Any]:
    """The model and the sampler, which a resumed run shares with its first session."""
    model = {"model": config.model.name, "weights_sha256": pipeline.model.identity().weights_sha256}
    return model | {f"sampler.{key}": value for key, value in config.sampler}


@contextmanager
def ending(run: TrackedRun) -> Iterator[None]:
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


def _train(
    learner: Learner,
    config: LearnConfig,
    name: str,
    storage: ObjectStore,
    mailbox: Any,
    run: TrackedRun,
    on_progress: Callable[[Progress], None],
) -> _Metrics:
    """Brings the learner to where the cluster's workers are in the end; gives the progress that MLflow did not take."""
    log = ProgressLog(run)

    def relay(news: list[Progress]) -> None:
        if news:
            on_progress(news[-1])
        log.add(news)

    try:
        learner.load_state(train(config, name, storage, mailbox, relay))
    finally:
        log.close()
    return log.waiting


def _make_schedules(objective: Objective, pipeline: Pipeline, learner: Learner, settings: Settings) -> list[Schedule]:
    settings = settings | {"iterations": learner.iteration}
    made = []
    for table, own in zip(learner.tables(), objective.schedule_settings(), strict=True):
        provenance = Provenance(policy=objective.policy, settings={**settings, **own}, git_commit=git_commit())
        made.append(make_schedule(pipeline, table, provenance))
    return made


def _lineages(objective: Objective, run: TrackedRun, name: str, data: str, schedules: list[Schedule]) -> list[Lineage]:
    config = objective.config
    return [
        Lineage(
            run=name,
            run_id=run.id,
            config=config.model_dump(mode="json", by_alias=True),
            data=data,
            seeds={"learning": config.run.seed, "first image measured": FIRST_SEED},
            parent=parent,
        )
        for parent in objective.parents([schedule.sha256 for schedule in schedules])
    ]


def _metrics(untold: _Metrics, learned: list[Measurement]) -> _Metrics:
    """Those of each schedule at its number, beside the progress that is still to be told."""
    metrics = {step: dict(values) for step, values in untold.items()}
    for number, measured in enumerate(learned):
        found = {"compute_share": measured.compute_share, "speedup": measured.speedup, "mse": measured.mse}
        metrics.setdefault(number, {}).update(found)
    return metrics


def _artifacts(
    folders: list[str], schedules: list[Schedule], scores: Tensor, measurements: list[Measurement]
) -> dict[str, bytes]:
    artifacts = {
        FRONTIER_FILE: plot_frontier(measurements),
        "frontier.json": lenient([measurement.as_dict() for measurement in measurements]).encode(),
    }
    for folder, schedule in zip(folders, schedules, strict=True):
        artifacts[str(Path(folder, SCHEDULE_FILE))] = schedule.to_json().encode()
        # Scores are those of the end; what was learned before had others.
        artifacts[str(Path(folder, HEATMAP_FILE))] = plot_schedule(schedule, None if folder else scores)
    return artifacts
