"""Training on the workers of a cluster: a Ray Train run, resumed by name, that survives lost workers."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from torch import Tensor

from l2c_ray.config.learn import LearnConfig
from l2c_ray.distributed.cluster import needs_of_a_worker
from l2c_ray.distributed.stopping import stopped
from l2c_ray.distributed.training_loop import Outcome
from l2c_ray.distributed.worker import STATE_FILE, train_worker
from l2c_ray.errors import LearningError
from l2c_ray.learning.progress import Progress
from l2c_ray.storage import addresses
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.tensors import read_tensors

_POLL_SECONDS = 0.5

OnProgress = Callable[[list[Progress]], None]
"""Called about twice a second with the iterations since the last call."""


def train_on_workers(
    config: LearnConfig,
    run_name: str,
    storage: ObjectStore,
    monitor: Any,
    on_progress: OnProgress,
    start: Mapping[str, Tensor] | None = None,
) -> Mapping[str, Tensor]:
    """Trains on the cluster's workers and returns the learner's last state.

    A run of this name under `storage` continues from its last checkpoint. A stop requested from the run's `monitor`
    ends it with a checkpoint.

    Args:
        start: the last state of another learner, from which this one begins.

    Raises:
        LearningError: the loss was not finite, or more workers were lost than `cluster.max_failures`.
        LearningStoppedError: a stop was requested; the run can be resumed.
    """
    trainer = _make_trainer(config, run_name, storage, monitor, start)
    try:
        with _relayed(monitor, on_progress):
            result = trainer.fit()
    except (TrainingFailedError, RayError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise LearningError(f"run {run_name}", f"failed on a worker ({reason})", "see the job's logs") from error
    outcome = cast(Outcome, result.return_value)
    if outcome == "diverged":
        raise LearningError(
            f"run {run_name}",
            "the loss is not finite",
            "lower training.learning_rate or router.lambda, check the weights",
        )
    if outcome == "stopped":
        raise stopped(run_name)
    with result.checkpoint.as_directory() as folder:
        return read_tensors(Path(folder, STATE_FILE))


def _make_trainer(
    config: LearnConfig, run_name: str, storage: ObjectStore, monitor: Any, start: Mapping[str, Tensor] | None
) -> DataParallelTrainer:
    from l2c_ray.distributed.store_file_system import file_system

    # A report waits for the controller's next poll, which is 2 s away unless told.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    needs = needs_of_a_worker(config.cluster)
    limit = config.cluster.max_failures
    # Not TorchTrainer, whose process group listens on every interface; the workers make their own.
    return DataParallelTrainer(
        train_worker,
        # Keys by reference: Ray Train stores this dictionary and shows it on its dashboard.
        train_loop_config={
            "config": config.model_dump(by_alias=True),
            "monitor": monitor,
            "environment": ray.put(addresses.environment()),
            "start": ray.put(start),
        },
        scaling_config=ScalingConfig(
            num_workers=config.cluster.workers,
            use_gpu="GPU" in needs,
            resources_per_worker=needs,
        ),
        run_config=RunConfig(
            name=run_name,
            # The workers get the store itself with its keys of S3, since Ray shows their variables to everybody.
            storage_path=".",
            storage_filesystem=file_system(storage),
            failure_config=FailureConfig(max_failures=limit, controller_failure_limit=limit),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )


@contextmanager
def _relayed(monitor: Any, on_progress: OnProgress) -> Iterator[None]:
    """Passes the monitor's progress on from a thread, since the main thread waits for the run."""
    over = threading.Event()

    def take() -> list[Progress]:
        return [progress for reported in ray.get(monitor.take.remote()).values() for progress in reported]

    def relay() -> None:
        # Without its cluster the run reports nothing, and the main thread has the error that says so.
        with suppress(RayError):
            while not over.wait(_POLL_SECONDS):
                on_progress(take())
            on_progress(take())

    thread = threading.Thread(target=relay, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
