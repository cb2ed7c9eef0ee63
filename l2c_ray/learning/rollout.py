"""One batch's trajectory under a router, and what it tells about every choice in it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.errors import ConfigError
from l2c_ray.learning.student import Student
from l2c_ray.models.base import Branch, CacheableTransformer
from l2c_ray.sampling.loop import evaluate_guided, full_run, trajectory
from l2c_ray.sampling.solver import Solver
from l2c_ray.schedule import Guidance

_ALONG_THE_WAY = 0.2
"""Weight of the errors on the way beside that of the end."""


@dataclass(frozen=True)
class FullRun:
    """What a trajectory is compared with."""

    noise: Tensor
    """[images, *image_shape]."""
    labels: Tensor
    samples: list[Tensor]
    """After every step."""


@torch.no_grad()
def run_in_full(pipeline: Pipeline, noise: Tensor, labels: Tensor) -> FullRun:
    """The trajectory from `noise` [images, *image_shape] under `labels` [images] that computes everything."""
    samples = trajectory(pipeline.model, pipeline.solver, noise, labels, pipeline.guidance, full_run)
    return FullRun(noise, labels, list(samples))


@torch.no_grad()
def require_steady_units(model: CacheableTransformer, solver: Solver) -> None:
    """Refuses a model whose units change their shape from step to step: an old value cannot stand for a new one.

    One evaluation of one image at every step, which is little beside an iteration.

    Raises:
        ConfigError: names the first unit that does.
    """
    weights = next(model.parameters())
    sample, label = torch.zeros(1, *model.image_shape).to(weights), torch.zeros(1, dtype=torch.long).to(weights.device)
    shapes: dict[int, torch.Size] = {}

    def branch(unit: int, compute: Callable[[], Tensor]) -> Tensor:
        output = compute()
        if shapes.setdefault(unit, output.shape) != output.shape:
            problem = f"{model.units[unit].name} changes its shape between steps, so that it cannot be forecast"
            raise ConfigError("model.name", problem, "take a model whose units keep theirs")
        return output

    for timestep in solver.timesteps:
        model(sample, torch.full((1,), timestep, device=weights.device), label, branch)


class Rollout:
    """A trajectory under a mask and coefficients from the noise of a full run, with the drift that they cause.

    An image that is far off would decide alone over all choices, and few such images carry half of the mean error. So
    each image counts by c / (e + c), with its own error e and the batch's geometric mean c.
    """

    def __init__(
        self, pipeline: Pipeline, full: FullRun, mask: Tensor, coefficients: Tensor, *, recompute: bool = False
    ) -> None:
        """Runs it.

        Args:
            mask, coefficients: those of a `Student`.
            recompute: whether an evaluation's graph is made again for every pass back, so that one is kept at a time.
        """
        self._images = len(full.labels)
        self._halves = 2 if pipeline.guidance.needs_unlabelled else 1
        self.student = Student(mask, coefficients, self._halves * self._images)
        evaluate = _evaluate_again_when_needed if recompute else evaluate_guided
        given = (pipeline.model, pipeline.solver, full.noise, full.labels, pipeline.guidance)
        samples = list(trajectory(*given, self.student, evaluate))
        residuals = [mine - theirs for mine, theirs in zip(samples, full.samples, strict=True)]
        squares = torch.stack([residual.square().flatten(1).mean(1) for residual in residuals])
        self._end = samples[-1]
        self.error = squares[-1].detach().mean()
        """Mean squared error at the end, a scalar."""
        self._weights = _weights(squares[-1].detach())
        errors = (squares * self._weights).mean(1)
        self._end_error = errors[-1]
        self.loss = _log(errors[-1]) + _ALONG_THE_WAY * _log(errors.mean())
        """So its gradient is as strong where the error is small already."""

    def slopes(self) -> tuple[Tensor, Tensor]:
        """The gradient of the error by the gates and by the coefficients, each [steps - 1, units].

        The error is that at the end with a part of that along the way, as the loss has them.
        """
        gates, coefficients = self._gradients(self.loss)
        return self._end_error.detach() * gates, self._end_error.detach() * coefficients

    def slope_of_the_end(self) -> Tensor:
        """The gradient of the error at the end alone by the coefficients, [steps - 1, units]."""
        return self._gradients(self._end_error)[1]

    def _gradients(self, error: Tensor) -> tuple[Tensor, Tensor]:
        choices = [self.student.gates, self.student.coefficients]
        # Where nothing is reused no coefficient has a part in it.
        gates, coefficients = torch.autograd.grad(error, choices, retain_graph=True, materialize_grads=True)
        return gates.sum(-1), coefficients.sum(-1)

    def effects(self, generator: torch.Generator, *, last: bool) -> tuple[Tensor, Tensor]:
        """What the gates and the coefficients do to the end in a random direction, each [steps - 1, units, images].

        The mean over directions of their products is the Gauss-Newton matrix of the error at the end, halved
        (Hutchinson's estimate).

        Args:
            last: whether the graph may go.
        """
        direction = torch.randn(self._end.shape, generator=generator).to(self._end.device)
        scale = (self._weights / self._end.numel()).sqrt().view(-1, 1, 1, 1)
        choices = [self.student.gates, self.student.coefficients]
        gradients = torch.autograd.grad(
            self._end, choices, direction * scale, retain_graph=not last, materialize_grads=True
        )
        gates, coefficients = (each.unflatten(-1, (self._halves, self._images)).sum(-2) for each in gradients)
        return gates, coefficients


def _evaluate_again_when_needed(
    model: CacheableTransformer, sample: Tensor, timestep: float, labels: Tensor, guidance: Guidance, branch: Branch
) -> Tensor:
    """As `evaluate_guided` (activation checkpointing, arXiv 1604.06174)."""
    given = (model, sample, timestep, labels, guidance, branch)
    output: Tensor = checkpoint(evaluate_guided, *given, use_reentrant=False, preserve_rng_state=False)
    return output


def _weights(errors: Tensor) -> Tensor:
    typical = _log(errors).mean().exp()
    return typical / (errors + typical)


def _log(error: Tensor) -> Tensor:
    return torch.log(error + torch.finfo(error.dtype).tiny)
