"""Learning within a budget on the digits models, in this process, and what comes of it."""

import torch
import torch.nn.functional as F

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.config.learn import LearnConfig
from l2c_ray.learning.trajectory.learner import TrajectoryLearner
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.macs import count_macs
from l2c_ray.sampling.loop import noise_from_seeds, sample_images
from l2c_ray.sampling.solver import Solver
from l2c_ray.schedule import Guidance, Table

GUIDANCE = Guidance(scale=1.5)


def learn_within(
    share: float, model: CacheableTransformer, solver: Solver, seed: int, iterations: int, images: int
) -> Table:
    """Within one budget; `images` are those of an iteration."""
    values = {
        "run": {"seed": seed},
        "model": {"name": model.name},
        "sampler": {"name": solver.name, "guidance_scale": GUIDANCE.scale},
        "router": {"budget": share},
        "training": {"iterations": iterations, "batch_size": images, "learning_rate": 0.1},
    }
    learner = TrajectoryLearner(LearnConfig.parse(values, source="benchmark"), model, solver)
    while not learner.done:
        learner.step(lambda shared: shared)
    (table,) = learner.tables()
    return table


def share_of(table: Table, model: CacheableTransformer) -> float:
    return count_macs(model).with_attention.of(table.compute).share


def error_of(table: Table, model: CacheableTransformer, solver: Solver, images: int = 256) -> float:
    """On the first images of the frontier protocol, whose noise neither has seen."""
    noise, labels = noise_from_seeds(range(10000, 10000 + images), model.image_shape), torch.arange(images) % 10
    full = sample_images(model, solver, noise, labels, GUIDANCE)
    cached = sample_images(model, solver, noise, labels, GUIDANCE, ScheduleExecutor(table))
    return F.mse_loss(cached, full).item()
