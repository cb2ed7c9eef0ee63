"""Routed samples a second with two workers of one thread each, over one worker of one thread, on a real Ray cluster.

An iteration is over when all workers have it; start-up, checkpoints and measuring are left out.
"""

import statistics
import time

import pytest
from real_cluster import REPOSITORY, Cluster
from torch import Tensor

from l2c_ray.config.learn import LearnConfig
from l2c_ray.data import digits
from l2c_ray.distributed import cluster as ray_cluster
from l2c_ray.distributed.mailbox import open_mailbox
from l2c_ray.distributed.trainer import train
from l2c_ray.learning.learner import Progress
from l2c_ray.learning.learners import make_learner
from l2c_ray.models import zoo
from l2c_ray.sampling.solvers import make_solver

REPEATS = 5
LEAST_SPEEDUP = 1.85


@pytest.mark.parametrize("config", ["digits-budget.toml", "digits.toml"])
def test_two_workers_learn_from_almost_twice_the_samples(cluster: Cluster, config: str) -> None:
    ray_cluster.connect()
    ratios = []
    for repeat in range(REPEATS):
        one, two = (samples_per_second(cluster, config, workers, repeat) for workers in (1, 2))
        ratios.append(two / one)
        print(f"\n{config}: {one:.1f} samples/s with one worker, {two:.1f} with two: {ratios[-1]:.3f}")
    print(f"{config}: {bytes_shared(config)} bytes all-reduced in an iteration with two workers")
    assert statistics.median(ratios) >= LEAST_SPEEDUP


def samples_per_second(cluster: Cluster, config: str, workers: int, repeat: int) -> float:
    settings = read(config, f"cluster.workers={workers}")
    name = f"scaling-{config}-{workers}-{repeat}".replace(".toml", "")
    seen: list[tuple[float, int]] = []

    def note(news: list[Progress]) -> None:
        if news:
            seen.append((time.perf_counter(), news[-1].iteration))

    with open_mailbox(name) as mailbox:
        train(settings, name, cluster.home / "scaling", mailbox, note)
    (first_time, first), (last_time, last) = seen[0], seen[-1]
    return workers * settings.training.batch_size * (last - first) / (last_time - first_time)


def bytes_shared(config: str) -> int:
    """The most that one worker of two hands to the others in an iteration, counted."""
    settings = read(config, "training.iterations=5")
    model = zoo.load(settings.model.name)
    solver = make_solver(settings.sampler.name, settings.sampler.steps, model)
    learner = make_learner(settings, model, solver, digits.load())
    sizes: list[int] = []

    def note(shared: Tensor) -> Tensor:
        sizes.append(shared.nbytes)
        return shared

    while not learner.done:
        learner.step(note)
    return max(sizes)


def read(config: str, *overrides: str) -> LearnConfig:
    iterations = "training.iterations=600" if config == "digits.toml" else "training.iterations=30"
    quiet = ("training.checkpoint_every=1000", iterations, *overrides)
    return LearnConfig.read(REPOSITORY / "jobs" / "configs" / config, quiet)
