"""Learner of the paper's objective (L2C, arXiv 2406.01733, section 3.3)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2c_ray.config.learn import LearnConfig
from l2c_ray.data.images import TrainingImages
from l2c_ray.learning.draws import make_generator
from l2c_ray.learning.l2c.pair_error import pair_error
from l2c_ray.learning.l2c.router import Router
from l2c_ray.learning.learner import Learner
from l2c_ray.learning.state import is_of_module, unpack_module
from l2c_ray.learning.updates import Update, UpdateRule
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.solver import Solver
from l2c_ray.schedule import Table


@dataclass(frozen=True)
class L2CUpdate(Update):
    """Gradient of the loss at one pair of steps."""

    gradient: Tensor
    """By the logits [units] of the cache step."""


class L2CLearner(UpdateRule[L2CUpdate], Learner):
    """Minimises the error at one cache step plus lambda times the sum of its scores (arXiv 2406.01733, section 3.3).

    In an iteration all workers have the same pair of neighbouring steps, but images and noise of their own.
    """

    router: Router
    _optimizer: torch.optim.Optimizer

    def __init__(
        self, config: LearnConfig, model: CacheableTransformer, solver: Solver, data: TrainingImages, rank: int = 0
    ) -> None:
        """`data` is this worker's share."""
        super().__init__(config, model, solver, rank)
        self._data = data
        cache_steps = solver.cache_steps(shifted=config.router.shifted)
        self.router = Router(solver.steps, len(model.units), cache_steps, config.router.initial_logit).to(self._device)
        self._optimizer = torch.optim.Adam(self.router.parameters(), lr=config.training.learning_rate)

    def start_from(self, tensors: Mapping[str, Tensor]) -> bool:
        """Takes the logits; False if they are of other cache steps."""
        if not is_of_module(tensors, self.router):
            return False
        unpack_module(tensors, self.router)
        return True

    def tables(self) -> list[Table]:
        return [self.router.threshold(theta) for theta in self._config.router.theta]

    def derived_tables(
        self, thresholds: Sequence[Sequence[float]], budgets: Sequence[float], share_of: Callable[[Table], float]
    ) -> list[tuple[dict[str, str | float], Table]]:
        derived: list[tuple[dict[str, str | float], Table]] = []
        for thetas in thresholds:
            theta = ", ".join(map(str, thetas)) if len(thetas) > 1 else thetas[0]
            derived.append(({"theta": theta}, self.router.threshold(*thetas)))
        for budget in budgets:
            if found := self.router.within(budget, share_of):
                derived.append(({"theta": found[0]}, found[1]))
        return derived

    def score_table(self) -> Tensor:
        return self.router.score_table()

    def compute_update(self) -> L2CUpdate:
        cache_step = self._pick_pair()
        images, noise, labels = self._draw_batch()
        scores = self.router.scores(cache_step)
        error = pair_error(self._model, self._solver, cache_step, scores, images, noise, labels)
        loss = error + (self._config.router.sparsity_weight or 0.0) * scores.sum()
        (gradient,) = torch.autograd.grad(loss, [self.router.row(cache_step)])
        return L2CUpdate(error, loss, gradient)

    def apply_update(self, update: L2CUpdate) -> None:
        self._optimizer.zero_grad()
        self.router.row(self._pick_pair()).grad = update.gradient
        self._optimizer.step()

    def _mean_score(self) -> float:
        return self.router.score_table()[list(self.router.cache_steps)].mean().item()

    def _pick_pair(self) -> int:
        """The iteration's cache step: all in a random order, each once before any is repeated."""
        cache_steps = self.router.cache_steps
        epoch, position = divmod(self.iteration, len(cache_steps))
        order = torch.randperm(len(cache_steps), generator=make_generator(self._config.run.seed, "pairs", epoch))
        return cache_steps[int(order[position])]

    def _draw_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images [batch, *image_shape], noise of that shape and labels [batch]."""
        generator = make_generator(self._config.run.seed, "batch", self.iteration, self._rank)
        drawn = self._data.batch(self._config.training.batch_size, self.iteration, generator)
        noise = torch.randn(drawn.images.shape, generator=generator)
        return drawn.images.to(self._device), noise.to(self._device), drawn.labels.to(self._device)
