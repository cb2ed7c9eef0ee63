"""Baselines, and rollouts under a mask with the derivatives of their error by every choice."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.errors import ConfigError
from l2c_ray.learning.trajectory.gated_trajectory import GatedTrajectory
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.loop import Evaluate, baseline_handlers, evaluate_guided, trajectory
from l2c_ray.sampling.solver import Solver

_CHECKPOINTED: Evaluate = partial(checkpoint, evaluate_guided, use_reentrant=False, preserve_rng_state=False)
"""`evaluate_guided` under activation checkpointing (arXiv 1604.06174)."""


@dataclass(frozen=True)
class Baseline:
    """A batch of trajectories that computes everything."""

    noise: Tensor
    """[images, *image_shape]."""
    labels: Tensor
    """[images]."""
    samples: list[Tensor]
    """The sample [images, *image_shape] after each step."""

    def part(self, images: slice) -> "Baseline":
        """The trajectories of some of the images."""
        return Baseline(self.noise[images], self.labels[images], [sample[images] for sample in self.samples])


@torch.no_grad()
def run_baseline(pipeline: Pipeline, noise: Tensor, labels: Tensor) -> Baseline:
    """The baseline from `noise` [images, *image_shape] under `labels` [images]."""
    samples = trajectory(pipeline.model, pipeline.solver, noise, labels, pipeline.guidance, baseline_handlers)
    return Baseline(noise, labels, list(samples))


@torch.no_grad()
def require_steady_units(model: CacheableTransformer, solver: Solver) -> None:
    """Refuses a model whose units change their shape between steps, since an old value cannot replace a new one.

    Costs one evaluation of one image at every step.

    Raises:
        ConfigError: names the first such unit.
    """
    weights = next(model.parameters())
    sample, label = torch.zeros(1, *model.image_shape).to(weights), torch.zeros(1, dtype=torch.long).to(weights.device)
    shapes: dict[int, torch.Size] = {}

    def handle(unit: int, compute: Callable[[], Tensor]) -> Tensor:
        output = compute()
        if shapes.setdefault(unit, output.shape) != output.shape:
            problem = f"{model.units[unit].name} changes its shape between steps, so that it cannot be forecast"
            raise ConfigError("model.name", problem, "take a model whose units keep theirs")
        return output

    for timestep in solver.timesteps:
        model(sample, torch.full((1,), timestep, device=weights.device), label, handle)


def errors_by_step(samples: Iterable[Tensor], baseline: Baseline) -> Tensor:
    """Mean squared error to the baseline of each image after each step, [steps, images]."""
    pairs = zip(samples, baseline.samples, strict=True)
    return torch.stack([(mine - theirs).square().flatten(1).mean(1) for mine, theirs in pairs])


class ByChoice(NamedTuple):
    """Derivatives by the gates and by the forecast coefficients, [steps - 1, units], maybe with images as last axis."""

    gates: Tensor
    coefficients: Tensor


class Rollout:
    """A trajectory under a mask and coefficients from the noise of a baseline, with the drift that they cause."""

    def __init__(
        self, pipeline: Pipeline, baseline: Baseline, mask: Tensor, coefficients: Tensor, *, recompute: bool = False
    ) -> None:
        """Runs it.

        Args:
            mask: [steps - 1, units], true where a unit is computed.
            coefficients: forecast coefficients, [steps - 1, units].
            recompute: activation checkpointing: each evaluation's graph is made again for every backward pass, so
                that only one is kept at a time.
        """
        self._images = len(baseline.labels)
        self._halves = 2 if pipeline.guidance.needs_unlabelled else 1
        self.gated = GatedTrajectory(mask, coefficients, self._halves * self._images)
        evaluate = _CHECKPOINTED if recompute else evaluate_guided
        given = (pipeline.model, pipeline.solver, baseline.noise, baseline.labels, pipeline.guidance)
        samples = list(trajectory(*given, self.gated, evaluate))
        self.errors = errors_by_step(samples, baseline)
        """Mean squared error of each image after each step, [steps, images]; differentiable."""
        self._final = samples[-1]

    def gradients(self, weights: Tensor) -> ByChoice:
        """Gradients [steps - 1, units] of the weighted sum of all errors; `weights` are [steps, images]."""
        return self._gradients((self.errors * weights).sum())

    def final_error_gradient(self, weights: Tensor) -> Tensor:
        """Gradient [steps - 1, units] by the coefficients of the weighted sum of final errors; `weights` [images]."""
        return self._gradients((self.errors[-1] * weights).sum()).coefficients

    def final_sample_products(self, direction: Tensor, *, last: bool) -> ByChoice:
        """Vector-Jacobian products [steps - 1, units, images] of the final samples with a direction.

        The mean of their outer products over directions, each the root of an image's weight times standard normal
        noise, is half the Gauss-Newton matrix of the weighted sum of squares at the end (Hutchinson's estimator).

        Args:
            direction: [images, *image_shape].
            last: whether the graph may be freed.
        """
        choices = [self.gated.gates, self.gated.coefficients]
        products = torch.autograd.grad(self._final, choices, direction, retain_graph=not last, materialize_grads=True)
        return ByChoice(*(each.unflatten(-1, (self._halves, self._images)).sum(-2) for each in products))

    def _gradients(self, error: Tensor) -> ByChoice:
        choices = [self.gated.gates, self.gated.coefficients]
        # Where nothing is reused the error does not depend on any coefficient.
        gates, coefficients = torch.autograd.grad(error, choices, retain_graph=True, materialize_grads=True)
        return ByChoice(gates.sum(-1), coefficients.sum(-1))
