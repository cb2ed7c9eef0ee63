"""The work of every Ray Train worker: its share of a run, gradients averaged, checkpoints by the first worker."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint
from torch import Tensor

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig
from l2c_ray.distributed.process_group import process_group
from l2c_ray.distributed.run import Run
from l2c_ray.distributed.training_loop import Outcome, run_iterations
from l2c_ray.learning.learner import Learner
from l2c_ray.learning.progress import Progress
from l2c_ray.storage.tensors import read_tensors, write_tensors

STATE_FILE = "state.safetensors"


def train_worker(settings: dict[str, Any]) -> Outcome:
    """Trains this worker's share of a run from its last checkpoint, and ends with a checkpoint.

    Args:
        settings: the `config` as a dictionary, the run's `monitor`, and references to the `environment` by which
            storage is reached and to the state to `start` from, which may be None.
    """
    config = LearnConfig.parse(settings["config"], source="config")
    with process_group():
        learner = _prepare(config, *ray.get([settings["environment"], settings["start"]])).learner
        return _train(config, learner, settings["monitor"])


def _prepare(config: LearnConfig, environment: Mapping[str, str], start: Mapping[str, Tensor] | None) -> Run:
    device = str(ray.train.torch.get_device())
    pipeline = Pipeline.from_config(config.model, config.sampler, device)
    run = Run.prepare(config, pipeline, ray.train.get_context().get_world_rank(), environment)
    if start is not None:
        run.learner.start_from(start)
    if latest := ray.train.get_checkpoint():
        with latest.as_directory() as folder:
            run.learner.load_state(read_tensors(Path(folder, STATE_FILE)))
    return run


def _train(config: LearnConfig, learner: Learner, monitor: Any) -> Outcome:
    leads = ray.train.get_context().get_world_rank() == 0

    def should_stop(progress: Progress) -> bool:
        return _any_worker(leads and ray.get(monitor.report.remote([progress])))

    def checkpoint() -> None:
        _checkpoint(learner, leads)

    outcome = run_iterations(learner, _average, should_stop, checkpoint, config.training.checkpoint_every)
    checkpoint()
    return outcome


def _checkpoint(learner: Learner, leads: bool) -> None:
    """Hands the first worker's state to the run's storage; every worker waits until it is on its way."""
    metrics = {"iteration": learner.iteration}
    if not leads:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_tensors(Path(folder, STATE_FILE), learner.state())
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _average(tensor: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
    return tensor


def _any_worker(flag: bool) -> bool:
    """Whether the flag is set on any worker."""
    device = ray.train.torch.get_device()
    return bool(_average(torch.tensor([float(flag)], device=device)).item() > 0)
