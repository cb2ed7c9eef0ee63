"""Time to learn a schedule: the paper's loop as published, beside learning within the budget it ended with.

Both in one process on the same threads, in turns, each repeat with a seed of its own. The paper's loop runs as long as
jobs/configs/digits.toml has it; ours is given a fixed, small number of iterations at the same compute share.

What was tried: time over the published loop's, then error over its own.
- 24 iterations of 4 images, seed 0: 0.38 of the time, 0.21 of the error;
- 16 iterations of 4 images, seeds 0 and 1, both against the loop's seed 0: 0.25 and 0.25; 0.33 and 0.25;
- 20 iterations of 3 images, likewise: 0.26 and 0.26; 0.42 and 0.53;
- 18 iterations of 4 images, likewise: 0.25 and 0.27; 0.23 and 0.13. With seed 1 against the loop's seed 1, which ends
  better there: 0.30; 0.89. Five seeds, each against its own: 0.31 to 0.34; 0.10 to 0.88.
"""

import statistics
import time

import torch
from learning_on_digits import error_of, learn_within, share_of
from published_loop import PublishedLoop

from l2c_ray.data import digits
from l2c_ray.data.images import LabelledImages
from l2c_ray.models import zoo
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.solver import Solver
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Table

REPEATS = 5
THREADS = 2
PAIRS, BATCH, WEIGHT, RATE = 600, 16, 8e-5, 0.1
"""Batch of jobs/configs/digits.toml, whose two workers take 8 images each."""
ITERATIONS, IMAGES = 18, 4
MOST_OF_THE_TIME = 1 / 3


def test_error_of_the_papers_loop_is_reached_in_a_third_of_its_time() -> None:
    torch.set_num_threads(THREADS)
    data = digits.load()
    times, errors = [], []
    for seed in range(REPEATS):
        model = zoo.load("digits-dit")
        solver = make_solver("ddim", 20, model)
        start = time.perf_counter()
        theirs = learn_as_published(model, solver, data, seed)
        middle = time.perf_counter()
        frozen = model.requires_grad_(requires_grad=False)
        ours = learn_within(share_of(theirs, model), frozen, solver, seed, ITERATIONS, IMAGES)
        end = time.perf_counter()
        times.append((end - middle) / (middle - start))
        errors.append(error_of(ours, model, solver) / error_of(theirs, model, solver))
        assert share_of(ours, model) <= share_of(theirs, model)
        print(f"\nseed {seed}: {times[-1]:.3f} of the time, {errors[-1]:.3f} of the error")
    print(f"time over the published loop's: {statistics.median(times):.3f} (spread {max(times) - min(times):.3f})")
    assert max(errors) <= 1
    assert statistics.median(times) <= MOST_OF_THE_TIME


def learn_as_published(model: CacheableTransformer, solver: Solver, data: LabelledImages, seed: int) -> Table:
    loop = PublishedLoop(model, solver, WEIGHT, RATE, seed)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(PAIRS):
        chosen = torch.randint(len(data), (BATCH,), generator=generator)
        loop.step(data.images[chosen], data.labels[chosen])
    return loop.router.threshold(0.5)
