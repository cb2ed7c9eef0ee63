"""Learns for one iteration on a DiT-B/2 of random weights and prints the most memory that this process held, in bytes.

`python one_iteration.py published` or `ours`.
"""

import resource
import sys

import torch
from published_loop import PublishedLoop

from l2c_ray.config.learn import LearnConfig
from l2c_ray.learning.trajectory_learner import TrajectoryLearner
from l2c_ray.models import zoo
from l2c_ray.sampling.solvers import make_solver

IMAGES, STEPS = 4, 20


def main() -> None:
    torch.set_num_threads(2)
    model = zoo.with_random_weights("dit-b-2-256", 0)
    solver = make_solver("ddim", STEPS, model)
    if sys.argv[1] == "published":
        images = torch.randn(IMAGES, *model.image_shape, generator=torch.Generator().manual_seed(0))
        PublishedLoop(model, solver, 1e-4, 0.1, 0).step(images, torch.arange(IMAGES))
    else:
        values = {
            "model": {"name": model.name},
            "router": {"budget": 0.5},
            "training": {"iterations": 100, "batch_size": IMAGES, "recompute": True},
        }
        config = LearnConfig.parse(values, source="benchmark")
        TrajectoryLearner(config, model.requires_grad_(requires_grad=False), solver).step(lambda shared: shared)
    # Linux counts in kilobytes.
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main()
