"""Router learning as a Ray Train run: resumed by name, kept going through lost workers, stopped with a checkpoint."""

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
from l2c_ray.distributed.worker import STATE_FILE, Outcome, train_worker
from l2c_ray.errors import LearningError
from l2c_ray.learning.progress import Progress
from l2c_ray.storage import addresses
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.tensors import read_tensors

_POLL_SECONDS = 0.5

OnProgress = Callable[[list[Progress]], None]
"""Called about twice a second with the iterations since the last call."""


def train(
    config: LearnConfig,
    run_name: str,
    storage: ObjectStore,
    mailbox: Any,
    on_progress: OnProgress,
    start: Mapping[str, Tensor] | None = None,
) -> Mapping[str, Tensor]:
    """Learns on the cluster's workers and returns the learner's last state.

    A run of this name under `storage` is gone on with from its last checkpoint. A stop that the `mailbox` asks for
    ends it with a checkpoint.

    Args:
        start: the last state of another learner, from which this one begins.

    Raises:
        LearningError: the loss was not finite, or more workers were lost than `cluster.max_failures`.
        LearningStoppedError: it was asked to stop, and can be gone on with.
    """
    from l2c_ray.distributed.store_file_system import file_system

    # A report waits for the controller's next poll, which is 2 s away unless told.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    needs = needs_of_a_worker(config.cluster)
    limit = config.cluster.max_failures
    # Not TorchTrainer, whose process group listens on every interface; the workers make their own.
    trainer = DataParallelTrainer(
        train_worker,
        # Keys by reference: Ray Train writes what is in this dictionary down, and shows it on its dashboard.
        train_loop_config={
            "config": config.model_dump(by_alias=True),
            "mailbox": mailbox,
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
            # The workers get the store itself, with what it needs to reach S3: Ray shows their variables to everybody.
            storage_path=".",
            storage_filesystem=file_system(storage),
            failure_config=FailureConfig(max_failures=limit, controller_failure_limit=limit),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        with _relayed(mailbox, on_progress):
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


@contextmanager
def _relayed(mailbox: Any, on_progress: OnProgress) -> Iterator[None]:
    """Hands the mailbox's progress on from a thread, since the main one waits for the run."""
    over = threading.Event()

    def relay() -> None:
        # Without its cluster the run has no news, and the main thread has the error that says so.
        with suppress(RayError):
            while not over.wait(_POLL_SECONDS):
                on_progress(ray.get(mailbox.take.remote()))
            on_progress(ray.get(mailbox.take.remote()))

    thread = threading.Thread(target=relay, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
