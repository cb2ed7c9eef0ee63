"""The paper's training loop as its authors published it: weights not frozen, teacher in the graph, a pair a time.

Only the router's logits are in the optimizer, but the gradient of every weight is computed too, also by way of the
teacher. The evaluation that fills the cache is outside the graph. As `DiT/train_router.py` and `router_training_losses`
of https://github.com/horseee/learning-to-cache have it, less dropped labels and logits clamped to [-5, 5].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_ray.learning.l2c.pair_error import interpolate, record
from l2c_ray.learning.l2c.router import Router
from l2c_ray.models.base import CacheableTransformer, compute_all
from l2c_ray.sampling.solver import Solver


class PublishedLoop:
    """Learns a router in this process."""

    def __init__(self, model: CacheableTransformer, solver: Solver, weight: float, rate: float, seed: int) -> None:
        """`weight` is lambda, `rate` that of Adam."""
        self._model = model.requires_grad_()
        self._solver = solver
        self._weight = weight
        self._generator = torch.Generator().manual_seed(seed)
        self.router = Router(solver.steps, len(model.units), solver.cache_steps(shifted=True), 2.0)
        self._optimizer = torch.optim.Adam(self.router.parameters(), lr=rate)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One iteration on a batch of data [batch, *image_shape]."""
        pairs = self.router.cache_steps
        step = pairs[int(torch.randint(len(pairs), (1,), generator=self._generator))]
        cache: dict[int, Tensor] = {}
        with torch.no_grad():
            sample = self._solver.add_noise(images, torch.randn(images.shape, generator=self._generator), step - 1)
            output = self._model(sample, self._time(step - 1, labels), labels, record(cache))
            sample = self._solver.begin()(step - 1, sample, output)
        teacher = self._model(sample, self._time(step, labels), labels, compute_all)
        scores = self.router.scores(step)
        student = self._model(sample, self._time(step, labels), labels, interpolate(scores, cache))
        error = F.mse_loss(student, teacher)
        self._optimizer.zero_grad()
        self._model.zero_grad()
        (error + self._weight * scores.sum()).backward()
        self._optimizer.step()

    def _time(self, step: int, labels: Tensor) -> Tensor:
        return torch.full((len(labels),), self._solver.timesteps[step])
