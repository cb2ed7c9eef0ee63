"""One trial of a study on a worker: a run with a parent, whose schedules go to the study's storage."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import ray
import torch
from torch import Tensor

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig, ModelSection, SamplerSection
from l2c_ray.config.search import DeriveSection
from l2c_ray.distributed.measuring import measure_alone, with_quality
from l2c_ray.distributed.run import LearnedSchedule, Run, StudyTrial
from l2c_ray.distributed.run_monitor import open_monitor
from l2c_ray.distributed.stopping import stopped
from l2c_ray.distributed.trainer import train_on_workers
from l2c_ray.distributed.training_loop import run_iterations
from l2c_ray.distributed.worker import STATE_FILE
from l2c_ray.errors import L2CError, LearningError, LearningStoppedError, StorageError, UnreachableError
from l2c_ray.evaluation.frontier import Measurement, RememberingSampler, SampleImages, Sampler
from l2c_ray.learning.progress import Progress
from l2c_ray.schedule import Schedule, Table
from l2c_ray.search.results import Result, ScheduleMeasurement, TrialSpec
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_store
from l2c_ray.storage.tensors import parse_tensors, serialize_tensors

OUTAGES = (UnreachableError, StorageError)
"""Errors that are not the fault of a trial: every other trial would meet them too."""

Environment = Mapping[str, str]
"""Variables by which a worker reaches the storage that its driver uses."""


@dataclass(frozen=True)
class TrialTask:
    """A trial as a worker is given it."""

    spec: TrialSpec
    study: str
    learn: Mapping[str, Any]
    """A LearnConfig, as a dictionary."""
    derive: DeriveSection
    storage: str
    """Address of the storage of the study's trials, which every node reaches."""
    lease_seconds: float
    """Time within which another driver that has lost the trial stops it."""

    @property
    def folder(self) -> str:
        """Folder of the trial's checkpoint and schedules; a retry continues from those of the first attempt."""
        return trial_folder(self.spec.origin)

    @property
    def store(self) -> ObjectStore:
        """The storage of the study's trials."""
        return open_store(self.storage)


def trial_folder(origin: int) -> str:
    """Folder of the trial whose first attempt has this number."""
    return f"trial-{origin:04d}"


def run_trial(task: TrialTask, monitor: Any, environment: Environment) -> Result:
    """Runs a trial: prepares its run, trains it, builds its schedules, measures them and stores them.

    Args:
        monitor: a `RunMonitor`, to which the trial reports by its number.

    Raises:
        UnreachableError, StorageError: a server or storage fails, which is not the trial's fault.
    """
    # A trial may start workers of its own, which get the environment from here.
    os.environ.update(environment)
    try:
        config = LearnConfig.parse(dict(task.learn), source="config")
        pipeline, sample = _resident(config.model, config.sampler, config.evaluation.batch_size)
        run, start = _prepare(task, config, pipeline)
        _train(task, run, monitor, start)
        built = _build_schedules(task, run)
        schedules = {name: each.schedule for name, each in built.items()}
        measured = measure_alone(config, pipeline, schedules, sample if config.cluster.workers == 1 else None)
        schedules = with_quality(config, schedules, measured)
        return Result("finished", measurements=tuple(_store(task, built, schedules, measured)))
    except LearningStoppedError:
        return Result("pruned", reason="was stopped early")
    except OUTAGES:
        raise
    except L2CError as error:
        return Result("failed", reason=str(error))


def _prepare(task: TrialTask, config: LearnConfig, pipeline: Pipeline) -> tuple[Run, Mapping[str, Tensor] | None]:
    """The trial's run, and the state of another trial that its learner begins from, if any."""
    run = Run.prepare(config, pipeline)
    warm_from = task.spec.warm_from
    start = None if warm_from is None else _read_state(task, warm_from)
    if start is None or not run.learner.start_from(start):
        warm_from, start = None, None
    return replace(run, parent=StudyTrial(task.study, task.spec.number, warm_from)), start


def _train(task: TrialTask, run: Run, monitor: Any, start: Mapping[str, Tensor] | None) -> None:
    """Brings the run's learner to its last iteration, and stores its state."""
    if run.config.cluster.workers > 1:
        _train_on_workers(task, run, monitor, start)
    else:
        _train_here(task, run, monitor)
    _write_state(task, run)


def _train_here(task: TrialTask, run: Run, monitor: Any) -> None:
    """Trains in this process, from the trial's checkpoint if there is one."""
    learner = run.learner
    if (state := _read_state(task, task.spec.origin)) is not None:
        learner.load_state(state)

    def should_stop(progress: Progress) -> bool:
        return bool(ray.get(monitor.report.remote([progress], task.spec.number)))

    outcome = run_iterations(
        learner,
        average=lambda tensor: tensor,
        should_stop=should_stop,
        checkpoint=lambda: _write_state(task, run),
        checkpoint_every=run.config.training.checkpoint_every,
    )
    if outcome == "diverged":
        raise LearningError(f"trial {task.spec.number}", "the loss is not finite", "narrow its range in space")
    if outcome == "stopped":
        raise stopped(task.study, "study")


def _train_on_workers(task: TrialTask, run: Run, monitor: Any, start: Mapping[str, Tensor] | None) -> None:
    """Trains by a Ray Train run in the trial's folder, which continues from its own checkpoints."""
    with open_monitor(f"{task.study}-trial-{task.spec.origin}", task.lease_seconds) as of_run:

        def relay(reported: list[Progress]) -> None:
            if ray.get(monitor.report.remote(reported, task.spec.number)):
                of_run.stop.remote()

        run.learner.load_state(train_on_workers(run.config, task.folder, task.store, of_run, relay, start))


def _write_state(task: TrialTask, run: Run) -> None:
    task.store.put(f"{task.folder}/{STATE_FILE}", serialize_tensors(run.learner.state()))


def _read_state(task: TrialTask, origin: int) -> dict[str, Tensor] | None:
    """The last state of the learner of the trial `origin`; None if it has left none."""
    store, name = task.store, f"{trial_folder(origin)}/{STATE_FILE}"
    return parse_tensors(store.get(name), f"{store.address}/{name}") if store.find(name) else None


def _build_schedules(task: TrialTask, run: Run) -> dict[str, LearnedSchedule]:
    """The run's own schedules and those derived from them, by file name; of several with the same table the first."""
    by_table: dict[Table, LearnedSchedule] = {}
    for built in (*run.build_schedules(), *run.derive_schedules(task.derive)):
        by_table.setdefault(built.schedule.table, built)
    # With the number of the attempt, since one that was given up may still write while its successor does.
    return {
        f"{task.folder}/schedule-{task.spec.number}-{place}.json": built
        for place, built in enumerate(by_table.values())
    }


def _store(
    task: TrialTask,
    built: Mapping[str, LearnedSchedule],
    schedules: Mapping[str, Schedule],
    measured: Mapping[str, Measurement],
) -> Iterator[ScheduleMeasurement]:
    """Stores the schedules, and yields what the study records of each."""
    store = task.store
    for name, schedule in schedules.items():
        store.put(name, schedule.to_json().encode())
        yield ScheduleMeasurement(
            settings=built[name].settings,
            compute_share=measured[name].compute_share,
            mse=measured[name].mse,
            seconds=measured[name].seconds,
            schedule=name,
            sha256=schedule.sha256,
        )


@lru_cache(maxsize=1)
def _resident(model: ModelSection, sampler: SamplerSection, batch_size: int) -> tuple[Pipeline, SampleImages]:
    """The pipeline with its sampler, loaded once for all trials that this process runs."""
    pipeline = Pipeline.from_config(model, sampler, "cuda" if torch.cuda.is_available() else "cpu")
    return pipeline, RememberingSampler(Sampler(pipeline, batch_size))
