"""Trials of a study as Ray tasks, side by side: each learns, makes its schedules, and measures them."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig, ModelSection, SamplerSection
from l2c_ray.config.search import SearchConfig
from l2c_ray.data import digits
from l2c_ray.data.training import open_training_images
from l2c_ray.distributed.learn import own_settings, settings_of
from l2c_ray.distributed.mailbox import Board, open_mailbox
from l2c_ray.distributed.measuring import sampling_of
from l2c_ray.distributed.sampling import ClusterSampler
from l2c_ray.distributed.stopping import stopped
from l2c_ray.distributed.trainer import train
from l2c_ray.distributed.worker import STATE_FILE
from l2c_ray.errors import L2CError, LearningError, LearningStoppedError, StorageError, UnreachableError
from l2c_ray.evaluation.candidates import full_run, scheduled
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.evaluation.frontier import (
    LEARNED,
    LEARNED_BY_PAIRS,
    Measurement,
    RememberingSampler,
    SampleImages,
    Sampler,
    measure,
)
from l2c_ray.learning.learner import Learner
from l2c_ray.learning.learners import make_learner
from l2c_ray.learning.pair_learner import PairLearner
from l2c_ray.learning.progress import Progress
from l2c_ray.models import zoo
from l2c_ray.models.macs import count_macs
from l2c_ray.registry.lineage import git_commit
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Provenance, Schedule, Table
from l2c_ray.search.results import WARM_FROM, Order, Point, Result
from l2c_ray.storage import addresses
from l2c_ray.storage.opening import open_store
from l2c_ray.storage.tensors import parse_tensors, serialize_tensors

OwnSettings = Mapping[str, str | float]
"""What one of a trial's schedules has for itself."""
OwnTables = list[tuple[OwnSettings, Table]]
Made = list[tuple[OwnSettings, Schedule]]

OUTAGES = (UnreachableError, StorageError)
"""Errors that say nothing of the trial that meets them: every other one would meet the same."""

Environment = Mapping[str, str]
"""Variables by which a worker reaches the storage that its driver does."""

RunTrial = Callable[["TrialTask", Any, Environment], Result]


@dataclass(frozen=True)
class TrialTask:
    """What a worker needs to run a trial."""

    order: Order
    study: str
    learn: Mapping[str, Any]
    """A LearnConfig, as a dictionary."""
    thresholds: tuple[tuple[float, ...], ...]
    """Of schedules to derive, each by phase."""
    budgets: tuple[float, ...]
    """Of schedules to derive by the threshold that meets each."""
    storage: str
    """Address of the place where the study has its trials, which every node sees."""
    patience: float
    """Seconds that another driver may take to find out that it has lost the trial, and to stop it."""


class RayTrials:
    """An `Executor` on the cluster. A context: its trials end with it."""

    def __init__(self, config: SearchConfig, study: str, storage: str, run: RunTrial | None = None) -> None:
        """Args:
        storage: address of the place where the study has its trials.
        run: what a trial is; learning and measuring unless given.
        """
        self._config = config
        self._study = study
        self._storage = storage
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._board: Any = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
        # A lost trial is the study's to run again: only there is it known how often, and by whom.
        self._run = ray.remote(run or run_trial).options(max_retries=0, **needs_of_a_trial(config))
        self._environment = ray.put(addresses.environment())
        self._flying: dict[Any, int] = {}

    def __enter__(self) -> "RayTrials":
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._flying:
            ray.cancel(task, force=True)
        ray.kill(self._board)

    def submit(self, order: Order) -> None:
        learn = self._config.learn_config(order.params).model_dump(by_alias=True)
        derive, patience = self._config.derive, self._config.study.lease_seconds
        task = TrialTask(order, self._study, learn, derive.thresholds, derive.budget, self._storage, patience)
        self._flying[self._run.remote(task, self._board, self._environment)] = order.number

    def results(self, seconds: float) -> Mapping[int, Result]:
        if not self._flying:
            # Others' trials are waited for.
            time.sleep(seconds)
            return {}
        done, _ = ray.wait(list(self._flying), timeout=seconds)
        if done:
            # Whatever else is ready by now costs no more waiting.
            done, _ = ray.wait(list(self._flying), num_returns=len(self._flying), timeout=0)
        return {self._flying.pop(task): _result_of(task) for task in done}

    def news(self) -> Mapping[int, Sequence[Progress]]:
        taken: dict[int, list[Progress]] = ray.get(self._board.take.remote())
        return taken

    def stop(self, number: int) -> None:
        self._board.stop.remote(number)


def trial_folder(origin: int) -> str:
    """Of a trial's checkpoint and schedules; a trial that is run again goes on with what its first try left there."""
    return f"trial-{origin:04d}"


def needs_of_a_trial(config: SearchConfig) -> dict[str, float]:
    """What its task takes. One whose learning takes several workers takes nothing itself: it only waits for them."""
    if several_workers(config):
        return {"num_cpus": 0}
    return {"num_cpus": config.study.cpus_per_trial, "num_gpus": config.study.gpus_per_trial}


def several_workers(config: SearchConfig) -> bool:
    """Whether a trial is a Ray Train run of its own."""
    return config.learn_config(config.corners()[0]).cluster.workers > 1


def run_trial(task: TrialTask, board: Any, environment: Environment) -> Result:
    """Learns as the task says, makes a schedule of every table, and measures all of them. Runs on a worker."""
    # A trial may start workers of its own, which get it from here.
    os.environ.update(environment)
    config = LearnConfig.parse(dict(task.learn), source="config")
    pipeline, _ = _workshop(_what_is_measured(config))
    try:
        learner = make_learner(config, pipeline.model, pipeline.solver, open_training_images(config))
        start = _warm_start(task, learner)
        if config.cluster.workers > 1:
            _learn_on_workers(task, config, learner, board, start)
        else:
            _learn_here(task, config, learner, board)
        made = _make_schedules(task, config, pipeline, learner, warm=start is not None)
        return Result("finished", points=tuple(_measured_points(task, config, pipeline, made)))
    except LearningStoppedError:
        return Result("pruned", reason="was stopped early")
    except OUTAGES:
        raise
    except L2CError as error:
        return Result("failed", reason=str(error))


def _result_of(task: Any) -> Result:
    try:
        result: Result = ray.get(task)
        return result
    except RayTaskError as error:
        if isinstance(error.cause, OUTAGES):
            raise error.cause from error
        return Result("failed", reason=str(error).strip().splitlines()[-1])
    except RayError as error:
        return Result("lost", reason=f"its worker died ({type(error).__name__})")


def _warm_start(task: TrialTask, learner: Learner) -> Mapping[str, Tensor] | None:
    """Lets the learner begin where another trial ended; that one's last state, or None if it cannot or shall not."""
    source = task.order.warm_from
    state = None if source is None else _read_state(task, source)
    return state if state is not None and learner.start_from(state) else None


def _learn_here(task: TrialTask, config: LearnConfig, learner: Learner, board: Any) -> None:
    if (state := _read_state(task, task.order.origin)) is not None:
        learner.load_state(state)
    while not learner.done:
        before = learner.iteration
        progress = learner.step(lambda tensor: tensor)
        if learner.iteration == before:
            raise LearningError(f"trial {task.order.number}", "the loss is not finite", "narrow its range in space")
        if ray.get(board.post.remote(task.order.number, [progress])):
            raise stopped(task.study, "study")
        if learner.iteration % config.training.checkpoint_every == 0 or learner.done:
            _keep_state(task, learner)


def _learn_on_workers(
    task: TrialTask, config: LearnConfig, learner: Learner, board: Any, start: Mapping[str, Tensor] | None
) -> None:
    """A Ray Train run in the trial's folder, which goes on from its own checkpoints."""
    with open_mailbox(f"{task.study}-trial-{task.order.origin}", task.patience) as mailbox:

        def relay(news: list[Progress]) -> None:
            if ray.get(board.post.remote(task.order.number, news)):
                mailbox.request_stop.remote()

        folder, store = trial_folder(task.order.origin), open_store(task.storage)
        learner.load_state(train(config, folder, store, mailbox, relay, start))
    _keep_state(task, learner)


def _keep_state(task: TrialTask, learner: Learner) -> None:
    open_store(task.storage).put(_state_name(task.order.origin), serialize_tensors(learner.state()))


def _read_state(task: TrialTask, origin: int) -> dict[str, Tensor] | None:
    """Of a learner, where a trial of this number left it."""
    store, name = open_store(task.storage), _state_name(origin)
    return parse_tensors(store.get(name), f"{store.address}/{name}") if store.find(name) else None


def _state_name(origin: int) -> str:
    return f"{trial_folder(origin)}/{STATE_FILE}"


def _measured_points(task: TrialTask, config: LearnConfig, pipeline: Pipeline, made: Made) -> list[Point]:
    points = []
    store = open_store(task.storage)
    for number, ((own, schedule), measured) in enumerate(zip(made, _measure(config, pipeline, made), strict=True)):
        schedule = schedule.with_quality(measured.quality(config.evaluation.images))
        # A try that was given up may still write when its successor does.
        name = f"{trial_folder(task.order.origin)}/schedule-{task.order.number}-{number}.json"
        store.put(name, schedule.to_json().encode())
        points.append(Point(own, measured.compute_share, measured.mse, measured.seconds, name, schedule.sha256))
    return points


def _make_schedules(task: TrialTask, config: LearnConfig, pipeline: Pipeline, learner: Learner, *, warm: bool) -> Made:
    """The learner's own, then those of other thresholds; of several with the same table the first."""
    policy = LEARNED if config.router.keeps_a_limit else LEARNED_BY_PAIRS
    common: dict[str, str | int | float] = {
        "iterations": learner.iteration,
        "study": task.study,
        "trial": task.order.number,
    }
    if warm and task.order.warm_from is not None:
        common[WARM_FROM] = task.order.warm_from
    own: OwnTables = [*zip(own_settings(config), learner.tables(), strict=True), *_derived(task, pipeline, learner)]
    made: dict[Table, tuple[OwnSettings, Schedule]] = {}
    for settings, table in own:
        every = {**settings_of(config), **common, **settings}
        provenance = Provenance(policy=policy, settings=every, git_commit=git_commit())
        made.setdefault(table, (settings, make_schedule(pipeline, table, provenance)))
    return list(made.values())


def _derived(task: TrialTask, pipeline: Pipeline, learner: Learner) -> OwnTables:
    if not isinstance(learner, PairLearner):
        return []
    router, macs = learner.router, count_macs(pipeline.model)

    def share_of(table: Table) -> float:
        return macs.cost(table.compute).with_attention.share

    by_thresholds: OwnTables = [
        ({"theta": ", ".join(map(str, thetas)) if len(thetas) > 1 else thetas[0]}, router.threshold(*thetas))
        for thetas in task.thresholds
    ]
    met = (router.within(budget, share_of) for budget in task.budgets)
    return by_thresholds + [({"theta": theta}, table) for theta, table in filter(None, met)]


def _measure(config: LearnConfig, pipeline: Pipeline, made: Made) -> list[Measurement]:
    """By the frontier protocol; of the schedules alone."""
    candidates = [full_run(pipeline), *(scheduled(str(number), schedule) for number, (_, schedule) in enumerate(made))]
    real = digits.images_to_judge(pipeline.model.image_shape)
    evaluation, classes = config.evaluation, pipeline.model.num_classes
    if config.cluster.workers > 1:
        with ClusterSampler(sampling_of(config)) as on_cluster:
            chunk = evaluation.batch_size * config.cluster.workers
            return measure(candidates, on_cluster, evaluation.images, classes, real, chunk)[1:]
    _, sample = _workshop(_what_is_measured(config))
    return measure(candidates, sample, evaluation.images, classes, real, evaluation.batch_size)[1:]


def _what_is_measured(config: LearnConfig) -> str:
    return config.model_dump_json(include={"model", "sampler", "evaluation"})


@lru_cache(maxsize=1)
def _workshop(what_is_measured: str) -> tuple[Pipeline, SampleImages]:
    """The model, and what samples with it: loaded once for all trials that this process runs."""
    values = json.loads(what_is_measured)
    model_section, sampler = (
        ModelSection.parse(values["model"], "model"),
        SamplerSection.parse(values["sampler"], "sampler"),
    )
    checkpoint = Path(model_section.checkpoint) if model_section.checkpoint else None
    model = zoo.load(model_section.name, checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
    pipeline = Pipeline(model, make_solver(sampler.name, sampler.steps, model), sampler.guidance)
    batch_size: int = values["evaluation"]["batch_size"]
    return pipeline, RememberingSampler(Sampler(model, sampler.name, sampler.guidance, batch_size))
