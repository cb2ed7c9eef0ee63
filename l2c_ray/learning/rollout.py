"""A trajectory under a router, and what it tells about every choice in it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.errors import ConfigError
from l2c_ray.learning.student import Student
from l2c_ray.models.base import CacheableTransformer, UnitHandler
from l2c_ray.sampling.loop import evaluate_guided, full_run, trajectory
from l2c_ray.sampling.solver import Solver
from l2c_ray.schedule import Guidance


@dataclass(frozen=True)
class FullRun:
    """What a trajectory is compared with."""

    noise: Tensor
    """[images, *image_shape]."""
    labels: Tensor
    samples: list[Tensor]
    """After every step."""

    def part(self, images: slice) -> "FullRun":
        """That of some of its images."""
        return FullRun(self.noise[images], self.labels[images], [sample[images] for sample in self.samples])


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

    def handle(unit: int, compute: Callable[[], Tensor]) -> Tensor:
        output = compute()
        if shapes.setdefault(unit, output.shape) != output.shape:
            problem = f"{model.units[unit].name} changes its shape between steps, so that it cannot be forecast"
            raise ConfigError("model.name", problem, "take a model whose units keep theirs")
        return output

    for timestep in solver.timesteps:
        model(sample, torch.full((1,), timestep, device=weights.device), label, handle)


def squared_errors(samples: Iterable[Tensor], full: FullRun) -> Tensor:
    """Mean squared error of each image after each step, [steps, images]."""
    pairs = zip(samples, full.samples, strict=True)
    return torch.stack([(mine - theirs).square().flatten(1).mean(1) for mine, theirs in pairs])


class Rollout:
    """A trajectory under a mask and coefficients from the noise of a full run, with the drift that they cause."""

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
        self.squares = squared_errors(samples, full)
        """[steps, images], as that function has it; differentiable."""
        self._end = samples[-1]

    def slopes(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the squares' weighted sum by the gates and by the coefficients, each [steps - 1, units].

        Args:
            weights: [steps, images].
        """
        return self._gradients((self.squares * weights).sum())

    def slope_of_the_end(self, weights: Tensor) -> Tensor:
        """The gradient by the coefficients, [steps - 1, units], of the weighted sum [images] at the end alone."""
        return self._gradients((self.squares[-1] * weights).sum())[1]

    def _gradients(self, error: Tensor) -> tuple[Tensor, Tensor]:
        choices = [self.student.gates, self.student.coefficients]
        # Where nothing is reused no coefficient has a part in it.
        gates, coefficients = torch.autograd.grad(error, choices, retain_graph=True, materialize_grads=True)
        return gates.sum(-1), coefficients.sum(-1)

    def effects(self, direction: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
        """What the gates and the coefficients do to the end in a direction, each [steps - 1, units, images].

        The mean of their products over directions, each the root of an image's weight times standard normal noise, is
        the Gauss-Newton matrix of the weighted sum of squares at the end, halved (Hutchinson's estimate).

        Args:
            direction: [images, *image_shape].
            last: whether the graph may go.
        """
        choices = [self.student.gates, self.student.coefficients]
        gradients = torch.autograd.grad(self._end, choices, direction, retain_graph=not last, materialize_grads=True)
        gates, coefficients = (each.unflatten(-1, (self._halves, self._images)).sum(-2) for each in gradients)
        return gates, coefficients


def _evaluate_again_when_needed(
    model: CacheableTransformer,
    sample: Tensor,
    timestep: float,
    labels: Tensor,
    guidance: Guidance,
    handler: UnitHandler,
) -> Tensor:
    """As `evaluate_guided` (activation checkpointing, arXiv 1604.06174)."""
    given = (model, sample, timestep, labels, guidance, handler)
    output: Tensor = checkpoint(evaluate_guided, *given, use_reentrant=False, preserve_rng_state=False)
    return output
