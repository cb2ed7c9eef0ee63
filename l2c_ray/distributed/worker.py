"""What every Ray Train worker runs: the learner on its own shard, gradients averaged, checkpoints from the first."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint
from torch import Tensor

from l2c_ray.config.learn import LearnConfig
from l2c_ray.data.training import open_training_images
from l2c_ray.distributed.process_group import process_group
from l2c_ray.learning.learner import Learner
from l2c_ray.learning.objectives import make_objective
from l2c_ray.models import zoo
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.storage.tensors import read_tensors, write_tensors

STATE_FILE = "state.safetensors"

Outcome = Literal["finished", "stopped", "diverged"]


def train_worker(settings: dict[str, Any]) -> Outcome:
    """Learns until the last iteration, a stop, or a loss that is not finite. All workers end at the same iteration.

    `settings` holds the `config` as a dictionary, the `mailbox`, and references to the `environment` that storage is
    reached by and to the state to `start` from, which may be None.
    """
    config = LearnConfig.parse(settings["config"], source="config")
    with process_group():
        learner = _make_learner(config, *ray.get([settings["environment"], settings["start"]]))
        return _learn(config, learner, settings["mailbox"])


def _learn(config: LearnConfig, learner: Learner, mailbox: Any) -> Outcome:
    leads = ray.train.get_context().get_world_rank() == 0
    outcome: Outcome = "finished"
    while not learner.done:
        before = learner.iteration
        progress = learner.step(_average)
        if learner.iteration == before:
            outcome = "diverged"
            break
        if _any_worker(leads and ray.get(mailbox.post.remote(progress))):
            outcome = "stopped"
            break
        if learner.iteration % config.training.checkpoint_every == 0 and not learner.done:
            _checkpoint(learner, leads)
    _checkpoint(learner, leads)
    return outcome


def _make_learner(config: LearnConfig, environment: Mapping[str, str], start: Mapping[str, Tensor] | None) -> Learner:
    rank = ray.train.get_context().get_world_rank()
    device = ray.train.torch.get_device()
    checkpoint = Path(config.model.checkpoint) if config.model.checkpoint else None
    model = zoo.load(config.model.name, checkpoint, str(device))
    solver = make_solver(config.sampler.name, config.sampler.steps, model)
    images = open_training_images(config, rank, environment)
    learner = make_objective(config).make_learner(model, solver, images, rank)
    if start is not None:
        learner.start_from(start)
    latest = ray.train.get_checkpoint()
    if latest:
        with latest.as_directory() as folder:
            learner.load_state(read_tensors(Path(folder, STATE_FILE)))
    return learner


def _checkpoint(learner: Learner, leads: bool) -> None:
    """The first worker's state to the run's storage; every worker waits until it is on its way."""
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
