"""Learns a router on one worker; several workers differ in their data and noise and average their gradients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from l2c_ray.config.learn import LearnConfig
from l2c_ray.learning.objective import pair_error
from l2c_ray.learning.router import Router
from l2c_ray.learning.seeding import draw_seed
from l2c_ray.learning.state import pack, unpack
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.solver import Solver

Average = Callable[[Tensor], Tensor]
"""The mean of a tensor over all workers; every worker gets the same."""


@dataclass(frozen=True)
class Progress:
    """What one iteration saw, averaged over the workers."""

    iteration: int
    """Iterations done, 1..iterations."""
    error: float
    """Mean squared error of the blended evaluation."""
    loss: float
    """Error plus lambda times the sum of the step's scores."""
    mean_score: float
    """Of all units at the cache steps: the share of them that is still computed, softly."""


def make_router(config: LearnConfig, model: CacheableTransformer, solver: Solver) -> Router:
    """A router as learning begins with it."""
    cache_steps = solver.cache_steps(shifted=config.router.shifted)
    return Router(solver.steps, len(model.units), cache_steps, config.router.initial_logit)


class RouterLearner:
    """Gradient descent on the logits alone; the model's weights are frozen.

    Every worker draws the same pairs of steps, but images and noise of its own. Iteration i's draws depend on
    (seed, i, rank) alone, so that a resumed run is the run that was never cut off.
    """

    def __init__(
        self,
        config: LearnConfig,
        model: CacheableTransformer,
        solver: Solver,
        images: Tensor,
        labels: Tensor,
        rank: int = 0,
    ) -> None:
        """`images` [n, channels, height, width] and `labels` [n] are this worker's shard, on the model's device."""
        self._config = config
        self._model = model
        self._solver = solver
        self._images, self._labels = images, labels
        self._rank = rank
        self.iteration = 0
        self.router = make_router(config, model, solver).to(images.device)
        self._optimizer = torch.optim.Adam(self.router.parameters(), lr=config.training.learning_rate)

    @property
    def done(self) -> bool:
        return self.iteration >= self._config.training.iterations

    def step(self, average: Average) -> Progress:
        """One iteration at one pair of steps. A non-finite loss is reported, but changes nothing."""
        cache_step = self._pick_pair()
        images, noise, labels = self._draw_batch()
        scores = self.router.scores(cache_step)
        error = pair_error(self._model, self._solver, cache_step, scores, images, noise, labels)
        loss = error + self._config.router.sparsity_weight * scores.sum()
        row = self.router.row(cache_step)
        (gradient,) = torch.autograd.grad(loss, row)

        # One small message carries everything that the workers share.
        shared = average(torch.cat([gradient, torch.stack([error, loss]).detach()]))
        mean_error, mean_loss = shared[-2:].tolist()
        if shared.isfinite().all():
            self._optimizer.zero_grad()
            row.grad = shared[:-2]
            self._optimizer.step()
            self.iteration += 1
        mean_score = self.router.score_table()[list(self.router.cache_steps)].mean().item()
        return Progress(self.iteration, mean_error, mean_loss, mean_score)

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, the same on every worker."""
        return pack(self.router, self._optimizer) | {"iteration": torch.tensor(self.iteration)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        unpack(tensors, self.router, self._optimizer)
        self.iteration = int(tensors["iteration"])

    def _pick_pair(self) -> int:
        """Cache steps in a random order, each once before any comes again."""
        pairs = self.router.cache_steps
        lap, position = divmod(self.iteration, len(pairs))
        order = torch.randperm(len(pairs), generator=self._generator("pairs", lap))
        return pairs[int(order[position])]

    def _draw_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        generator = self._generator("batch", self.iteration, self._rank)
        chosen = torch.randint(len(self._images), (self._config.training.batch_size,), generator=generator)
        noise = torch.randn((len(chosen), *self._images.shape[1:]), generator=generator)
        return self._images[chosen], noise.to(self._images.device), self._labels[chosen]

    def _generator(self, purpose: str, number: int, rank: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(draw_seed(self._config.run.seed, purpose, number, rank))
