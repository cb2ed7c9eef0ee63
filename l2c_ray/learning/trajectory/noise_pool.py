"""The random draws of a trajectory learner: noise with its baselines, and directions."""

from collections.abc import Iterator

import torch
from torch import Tensor

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig
from l2c_ray.learning.draws import make_generator
from l2c_ray.learning.trajectory.rollout import Baseline, run_baseline


class NoisePool:
    """Batches of noise and labels of one worker, used in turn; the baseline of each is computed once.

    Every draw depends on (seed, its purpose, its number, rank) alone.
    """

    def __init__(self, config: LearnConfig, pipeline: Pipeline, rank: int) -> None:
        self._seed = config.run.seed
        self._batch_size = config.training.batch_size
        self._batches = -(-config.training.noise_pool_size // self._batch_size)
        self._pipeline = pipeline
        self._rank = rank
        self._device = next(pipeline.model.parameters()).device
        self._baselines: dict[int, Baseline] = {}

    def baseline(self, iteration: int) -> Baseline:
        """The baseline of the iteration's batch."""
        number = iteration % self._batches
        if number not in self._baselines:
            self._baselines[number] = self._run("noise", number, self._rank)
        return self._baselines[number]

    def held_out(self) -> Iterator[Baseline]:
        """Baselines of noise that no iteration uses, as many as are in the pool and the same on every worker."""
        return (self._run("unseen noise", number, 0) for number in range(self._batches))

    def direction(self, number: int, iteration: int) -> Tensor:
        """Standard normal noise [batch, *image_shape], of its own for every number and iteration."""
        generator = make_generator(self._seed, f"direction {number}", iteration, self._rank)
        return torch.randn((self._batch_size, *self._pipeline.model.image_shape), generator=generator).to(self._device)

    def _run(self, purpose: str, number: int, rank: int) -> Baseline:
        generator = make_generator(self._seed, purpose, number, rank)
        model = self._pipeline.model
        labels = torch.randint(model.num_classes, (self._batch_size,), generator=generator)
        noise = torch.randn((self._batch_size, *model.image_shape), generator=generator)
        return run_baseline(self._pipeline, noise.to(self._device), labels.to(self._device))
