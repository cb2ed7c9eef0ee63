"""The error of the paper's objective: a blend of fresh and cached unit outputs against the full evaluation."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_ray.models.base import CacheableTransformer, UnitHandler, compute_all
from l2c_ray.sampling.solver import Solver


def record(outputs: dict[int, Tensor]) -> UnitHandler:
    """A unit handler that computes every unit and keeps its output in `outputs`, the cache of the next evaluation."""

    def handle(unit: int, compute: Callable[[], Tensor]) -> Tensor:
        outputs[unit] = compute()
        return outputs[unit]

    return handle


def interpolate(scores: Tensor, cache: dict[int, Tensor]) -> UnitHandler:
    """A unit handler that gives score * fresh + (1 - score) * cached, differentiable in `scores` [units]."""

    def handle(unit: int, compute: Callable[[], Tensor]) -> Tensor:
        return torch.lerp(cache[unit], compute(), scores[unit])

    return handle


def pair_error(
    model: CacheableTransformer,
    solver: Solver,
    cache_step: int,
    scores: Tensor,
    clean: Tensor,
    noise: Tensor,
    labels: Tensor,
) -> Tensor:
    """Mean squared error of the blended evaluation at `cache_step` to the full one, a scalar with a graph to `scores`.

    The solver's previous update is evaluated in full from the noised data, and its last evaluation fills the cache;
    then the teacher evaluates in full, outside the graph, and the student with the blend. No guidance, as in the paper
    (arXiv 2406.01733, section 3.3).

    Args:
        cache_step: 1..steps-1.
        scores: [units] in [0, 1].
        clean: data [batch, channels, height, width] with `noise` of its shape and `labels` [batch].
    """
    start = (cache_step - 1) // solver.order * solver.order
    advance = solver.begin()
    cache: dict[int, Tensor] = {}
    with torch.no_grad():
        sample = solver.add_noise(clean, noise, start)
        for step in range(start, cache_step):
            output = model(sample, _full(solver.timesteps[step], labels), labels, record(cache))
            sample = advance(step, sample, output)
        compared_at = _full(solver.training_timestep(cache_step), labels)
        teacher = model(sample, compared_at, labels, compute_all)
    student = model(sample, compared_at, labels, interpolate(scores, cache))
    return F.mse_loss(student, teacher)


def _full(timestep: float, labels: Tensor) -> Tensor:
    return torch.full((len(labels),), timestep, device=labels.device)
