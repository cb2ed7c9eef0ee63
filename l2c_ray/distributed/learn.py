"""The main job: learn a router on the cluster, threshold it, measure the schedule, and make it a version."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig
from l2c_ray.data import digits
from l2c_ray.data.training import open_training_images
from l2c_ray.distributed import cluster
from l2c_ray.distributed.mailbox import open_mailbox
from l2c_ray.distributed.progress_log import ProgressLog
from l2c_ray.distributed.run_folder import go_on_with
from l2c_ray.distributed.sampling import ClusterSampler
from l2c_ray.distributed.stopping import stops_on_sigterm
from l2c_ray.distributed.trainer import train
from l2c_ray.errors import LearningStoppedError, UnreachableError
from l2c_ray.evaluation.candidates import standard_candidates
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.evaluation.frontier import FEWER_STEPS, LEARNED, LEARNED_BY_PAIRS, Measurement, measure
from l2c_ray.evaluation.plots import plot_frontier, plot_schedule
from l2c_ray.learning.learner import Learner, Progress
from l2c_ray.learning.learners import make_learner
from l2c_ray.models import zoo
from l2c_ray.registry import tracking
from l2c_ray.registry.lineage import git_commit
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import SCHEDULE_FILE, RegisteredVersion, register
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Provenance, Schedule
from l2c_ray.storage.files import home, make_writable

HEATMAP_FILE = "heatmap.png"
FRONTIER_FILE = "frontier.png"


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


def learn(
    config: LearnConfig, on_start: Callable[[Started], None], on_progress: Callable[[Progress], None]
) -> LearnResult:
    """Runs the whole job.

    The config, the checkpoint, the storage, the tracking server, the size of the cluster and what the run's name
    stands for are checked before the MLflow run begins; what only a worker can see (a checkpoint or a storage folder
    that another node lacks) is found when it starts.

    Args:
        on_start: called once, when everything that can be checked has been.
        on_progress: called from another thread, about twice a second while learning goes on.

    Raises:
        InvalidInputError: of the kind that the config, checkpoint, storage or cluster calls for.
        UnreachableError: the tracking server or the cluster does not answer. While learning goes on the former is
            waited for.
        LearningError: learning or measuring broke down; the MLflow run is FAILED and no version is made.
        LearningStoppedError: SIGTERM ended it, with a checkpoint if there was time for one; the MLflow run is KILLED.
    """
    pipeline = _load_pipeline(config)
    data = open_training_images(config)
    learner = make_learner(config, pipeline.model, pipeline.solver, data)
    settings = _settings(config) | data.settings()
    storage = make_writable(Path(config.run.storage) if config.run.storage else home() / "runs")
    client = tracking.connect()
    cluster.connect()
    cluster.require(config.cluster)
    name = config.run.name or _fresh_name(config)
    with stops_on_sigterm(name) as stopping, open_mailbox(name) as mailbox:
        done = go_on_with(storage / name, _lasting_settings(config, pipeline, settings), config.training.iterations)
        cluster.wait_for_room(config.cluster)
        stopping.check()

        run = TrackedRun(client, config.run.experiment, name, config.model_dump(by_alias=True))
        stopping.ask_by(mailbox.request_stop.remote)
        # At once: when the job has ended of itself before it was to stop, that is noted afterwards.
        stopping.ask_by(lambda: run.end("KILLED"))
        with _ending(run):
            # The parameters of an MLflow run are those of its first session and cannot change.
            run.log_file(f"config-from-{done}.json", config.model_dump_json(by_alias=True, indent=1).encode())
            on_start(Started(name, run.id, config.training.iterations))
            _train(learner, config, name, storage, mailbox, run, on_progress)
            stopping.check()
            schedules = _make_schedules(config, pipeline, learner, settings)
            measurements = _measure(config, pipeline, schedules)
            stopping.check()
            with _kept_for_later(name):
                learned = measurements[1 : 1 + len(schedules)]
                schedules = [
                    schedule.with_quality(measured.quality(config.evaluation.images))
                    for schedule, measured in zip(schedules, learned, strict=True)
                ]
                _log_results(run, _own_names(config, "-"), schedules, learner.score_table(), measurements)
                versions = [
                    register(
                        client,
                        schedule,
                        run.id,
                        pipeline.model.image_shape,
                        tags={"run": name, "speedup": f"{measured.speedup:.3f}"},
                        worth_serving=_is_worth_serving(measured, measurements),
                    )
                    for schedule, measured in zip(schedules, learned, strict=True)
                ]
    return LearnResult(name, run.id, schedules, versions, measurements)


def _load_pipeline(config: LearnConfig) -> Pipeline:
    checkpoint = Path(config.model.checkpoint) if config.model.checkpoint else None
    model = zoo.load(config.model.name, checkpoint)
    solver = make_solver(config.sampler.name, config.sampler.steps, model)
    return Pipeline(model, solver, config.sampler.guidance)


def _fresh_name(config: LearnConfig) -> str:
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    return f"{config.model.name}-{config.sampler.name}-{config.sampler.steps}-{now}"


_Settings = dict[str, str | int | float | bool]


def _settings(config: LearnConfig) -> _Settings:
    """What makes the same schedule again on one worker of the same kind, with the number of iterations."""
    return {
        **_objective(config),
        "batch_size": config.training.batch_size,
        "learning_rate": config.training.learning_rate,
        "workers": config.cluster.workers,
        "seed": config.run.seed,
    }


def _objective(config: LearnConfig) -> _Settings:
    router = config.router
    if router.keeps_a_limit:
        profile = router.profile
        counted = f"seconds by profile {sha256(profile.to_json().encode()).hexdigest()}" if profile else "macs"
        return {
            "objective": "trajectory",
            "limits": ", ".join(map(str, router.budgets or [router.max_error])),
            "cost": counted,
            "forecast": router.forecast,
            "along_the_way": config.training.along_the_way,
            "noises": config.training.noises,
        }
    return {
        "objective": "pair",
        "lambda": router.sparsity_weight,
        "initial_logit": router.initial_logit,
        "shifted": router.shifted,
    }


def _lasting_settings(config: LearnConfig, pipeline: Pipeline, settings: _Settings) -> dict[str, Any]:
    """What a run keeps from its first session to its last.

    Theta may change; so may the number of iterations, but where a budget tightens over them.
    """
    lasting: dict[str, Any] = {**settings}
    if config.router.keeps_a_limit:
        lasting["iterations"] = config.training.iterations
    lasting |= {"model": config.model.name, "weights_sha256": pipeline.model.identity().weights_sha256}
    return lasting | {f"sampler.{key}": value for key, value in config.sampler}


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


@contextmanager
def _kept_for_later(name: str) -> Iterator[None]:
    """Tells whoever has lost the tracking server after all the work how to have its result."""
    try:
        yield
    except UnreachableError as error:
        remedy = f"what was learned is kept: when it answers again, repeat this with --set run.name={name}"
        raise UnreachableError(error.subject, error.problem, remedy) from error


def _train(
    learner: Learner,
    config: LearnConfig,
    name: str,
    storage: Path,
    mailbox: Any,
    run: TrackedRun,
    on_progress: Callable[[Progress], None],
) -> None:
    """Brings the learner to where the cluster's workers are in the end."""
    log = ProgressLog(run)

    def relay(news: list[Progress]) -> None:
        if news:
            on_progress(news[-1])
        log.add(news)

    try:
        learner.load_state(train(config, name, storage, mailbox, relay))
    finally:
        log.close()


def _make_schedules(config: LearnConfig, pipeline: Pipeline, learner: Learner, settings: _Settings) -> list[Schedule]:
    settings = settings | {"iterations": learner.iteration}
    policy = LEARNED if config.router.keeps_a_limit else LEARNED_BY_PAIRS
    made = []
    for table, own in zip(learner.tables(), _own_settings(config), strict=True):
        provenance = Provenance(policy=policy, settings={**settings, **own}, git_commit=git_commit())
        made.append(make_schedule(pipeline, table, provenance))
    return made


def _own_settings(config: LearnConfig) -> list[dict[str, float]]:
    """What each of a run's schedules has for itself."""
    router = config.router
    if router.max_error is not None:
        return [{"max_error": router.max_error}]
    if router.budgets:
        key = "budget" if router.budget else "time_budget"
        return [{key: budget} for budget in router.budgets]
    return [{"theta": theta} for theta in config.router.theta]


def _own_names(config: LearnConfig, joint: str) -> list[str]:
    """One for each of a run's schedules, made of what it has for itself; empty where there is but one."""
    own = [joint.join(map(str, item)) for settings in _own_settings(config) for item in settings.items()]
    return own if len(own) > 1 else [""]


def _measure(config: LearnConfig, pipeline: Pipeline, schedules: list[Schedule]) -> list[Measurement]:
    names = [f"{LEARNED} {own}".rstrip() for own in _own_names(config, "=")]
    candidates = standard_candidates(pipeline, dict(zip(names, schedules, strict=True)))
    cluster.wait_for_room(config.cluster)
    with ClusterSampler(config) as sample:
        return measure(
            candidates,
            sample,
            config.evaluation.images,
            pipeline.model.num_classes,
            real=digits.images_to_judge(pipeline.model.image_shape),
            chunk=config.evaluation.batch_size * config.cluster.workers,
        )


def _is_worth_serving(learned: Measurement, measurements: list[Measurement]) -> bool:
    """Whoever wants this much compute can have it without a schedule, by fewer steps."""
    rivals = [other for other in measurements if other.curve == FEWER_STEPS]
    return all(learned.mse < rival.mse for rival in rivals if rival.compute_share <= learned.compute_share)


def _log_results(
    run: TrackedRun, folders: list[str], schedules: list[Schedule], scores: Tensor, measurements: list[Measurement]
) -> None:
    learned = measurements[1 : 1 + len(schedules)]
    for index, (folder, schedule, measured) in enumerate(zip(folders, schedules, learned, strict=True)):
        metrics = {"compute_share": measured.compute_share, "speedup": measured.speedup, "mse": measured.mse}
        run.log_metrics({index: metrics})
        run.log_file(str(Path(folder, SCHEDULE_FILE)), schedule.to_json().encode())
        # Scores are those of the end; what was learned before had others.
        heatmap = plot_schedule(schedule, None if folder else scores)
        run.log_file(str(Path(folder, HEATMAP_FILE)), heatmap)
    run.log_file(FRONTIER_FILE, plot_frontier(measurements))
    rows = json.dumps([measurement.as_dict() for measurement in measurements], indent=1)
    run.log_file("frontier.json", rows.encode())
