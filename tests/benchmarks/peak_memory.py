"""A process that learns for one iteration on a DiT-B/2, and prints the most memory that it held, in bytes.

Its argument says by which loop: `published` or `ours`.
"""

import re
import sys
from pathlib import Path

import torch
from published_loop import PublishedLoop

from l2c_ray.config.learn import LearnConfig
from l2c_ray.learning.trajectory.learner import TrajectoryLearner
from l2c_ray.models import zoo
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.solver import Solver
from l2c_ray.sampling.solvers import make_solver

MODEL, STEPS = "dit-b-2-256", 20
PUBLISHED_BATCH = 8
"""Latents in a pair on one worker, as the authors' README trains: 64 on 8 GPUs."""
OUR_BATCH = 2
"""Two parts: the second one shows that nothing of the first is left. Others would take their time, but no memory."""


def learn_as_published(model: CacheableTransformer, solver: Solver) -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(PUBLISHED_BATCH, *model.image_shape, generator=generator)
    loop = PublishedLoop(model, solver, 1e-6, 0.01, seed=0)
    loop.step(latents, torch.randint(model.num_classes, (PUBLISHED_BATCH,), generator=generator))


def learn_within_a_budget(model: CacheableTransformer, solver: Solver) -> None:
    values = {
        "model": {"name": MODEL},
        "router": {"budget": 0.5},
        "training": {"iterations": 1, "batch_size": OUR_BATCH, "micro_batch_size": 1},
    }
    TrajectoryLearner(LearnConfig.parse(values, source="benchmark"), model, solver).step(lambda shared: shared)


def main() -> None:
    model = zoo.with_random_weights(MODEL, seed=0)
    loops = {"published": learn_as_published, "ours": learn_within_a_budget}
    loops[sys.argv[1]](model, make_solver("ddim", STEPS, model))
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(1024 * int(peak))


if __name__ == "__main__":
    main()
