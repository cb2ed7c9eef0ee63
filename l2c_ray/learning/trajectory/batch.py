"""A worker's batch of rollouts in one iteration, run as a whole or in micro-batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.learning.trajectory.budget_router import table_of
from l2c_ray.learning.trajectory.loss_weights import LossWeights
from l2c_ray.learning.trajectory.rollout import Baseline, Rollout, errors_by_step
from l2c_ray.sampling.loop import trajectory


@dataclass(frozen=True)
class ChoiceStatistics:
    """Derivatives of the error by every choice, each [steps - 1, units]; those of micro-batches add up."""

    gate_gradient: Tensor
    coefficient_gradient: Tensor
    """Gradients of the final error plus the weighted intermediate ones."""
    gate_curvature: Tensor
    coefficient_curvature: Tensor
    """Halves of the diagonal of the final error's Gauss-Newton matrix, estimated by one direction."""
    difference_products: Tensor
    difference_squares: Tensor
    """As in `GatedTrajectory`."""

    def __add__(self, other: "ChoiceStatistics") -> "ChoiceStatistics":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return ChoiceStatistics(*(mine + theirs for mine, theirs in pairs))


@dataclass(frozen=True)
class CoefficientStatistics:
    """Derivatives of the final error by the forecast coefficients together."""

    gradient: Tensor
    """[steps - 1, units]."""
    jacobian_rows: Tensor
    """[directions, images, steps - 1, units]: the mean over directions of the outer products, summed over the images,
    estimates half the Gauss-Newton matrix."""


class Batch:
    """Rollouts under a mask and coefficients from the noise of a baseline.

    The graph grows with the images in it. A large model takes a micro-batch at a time, with activation checkpointing;
    because the loss weights depend on the errors of all images, a run without a graph comes first.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        baseline: Baseline,
        mask: Tensor,
        coefficients: Tensor,
        *,
        intermediate_loss_weight: float,
        micro_batch_size: int | None = None,
    ) -> None:
        """Runs the batch once.

        Args:
            mask: [steps - 1, units], true where a unit is computed.
            coefficients: forecast coefficients, [steps - 1, units].
            intermediate_loss_weight: as in `LossWeights.of`.
            micro_batch_size: images whose graph is kept at a time; None keeps that of all.
        """
        self._pipeline = pipeline
        self._baseline = baseline
        self._mask = mask
        self._coefficients = coefficients
        self._micro_batch_size = micro_batch_size
        self._whole = None if micro_batch_size else Rollout(pipeline, baseline, mask, coefficients)
        self._errors = self._whole.errors.detach() if self._whole else self._errors_of(mask)
        self.loss_weights = LossWeights.of(self._errors, intermediate_loss_weight)

    def choice_statistics(self, direction: Tensor) -> ChoiceStatistics:
        """Derivatives by every choice; `direction` is standard normal noise of the images' shape."""
        first, *others = (self._choice_statistics(images, direction) for images in self._micro_batches())
        return sum(others, first)

    def coefficient_statistics(self, directions: Sequence[Tensor]) -> CoefficientStatistics:
        """Derivatives by the coefficients; each direction is standard normal noise of the images' shape."""
        parts = [self._coefficient_statistics(images, directions) for images in self._micro_batches()]
        return CoefficientStatistics(
            torch.stack([part.gradient for part in parts]).sum(0),
            torch.cat([part.jacobian_rows for part in parts], dim=1),
        )

    def gains(self, mask: Tensor) -> Tensor:
        """Reduction of each image's bounded error by another mask, over the mean bounded error now, [images]."""
        now, then = (self.loss_weights.bounded(errors[-1]) for errors in (self._errors, self._errors_of(mask)))
        return (now - then) / (now.mean() + torch.finfo(now.dtype).tiny)

    def _choice_statistics(self, images: slice, direction: Tensor) -> ChoiceStatistics:
        rollout = self._roll_out(images)
        gradients = rollout.gradients(self.loss_weights.by_step[:, images])
        products = rollout.final_sample_products(self._weighted(direction)[images], last=True)
        return ChoiceStatistics(
            gate_gradient=gradients.gates,
            coefficient_gradient=gradients.coefficients,
            gate_curvature=products.gates.square().sum(-1),
            coefficient_curvature=products.coefficients.square().sum(-1),
            difference_products=rollout.gated.difference_products,
            difference_squares=rollout.gated.difference_squares,
        )

    def _coefficient_statistics(self, images: slice, directions: Sequence[Tensor]) -> CoefficientStatistics:
        rollout = self._roll_out(images)
        gradient = rollout.final_error_gradient(self.loss_weights.final[images])
        products = [
            rollout.final_sample_products(self._weighted(direction)[images], last=direction is directions[-1])
            for direction in directions
        ]
        return CoefficientStatistics(gradient, torch.stack([each.coefficients for each in products]).movedim(-1, 1))

    def _micro_batches(self) -> Iterator[slice]:
        images = len(self._baseline.labels)
        size = self._micro_batch_size or images
        return (slice(first, first + size) for first in range(0, images, size))

    def _roll_out(self, images: slice) -> Rollout:
        if self._whole:
            return self._whole
        return Rollout(self._pipeline, self._baseline.part(images), self._mask, self._coefficients, recompute=True)

    def _weighted(self, direction: Tensor) -> Tensor:
        """The direction scaled so that squared products add up to the Gauss-Newton matrix of the weighted error."""
        pixels = direction[0].numel()
        return direction * (self.loss_weights.final / pixels).sqrt().view(-1, 1, 1, 1)

    @torch.no_grad()
    def _errors_of(self, mask: Tensor) -> Tensor:
        """Errors [steps, images] of the schedule itself, without a graph."""
        executor = ScheduleExecutor(table_of(mask, self._coefficients))
        given = (self._pipeline.model, self._pipeline.solver, self._baseline.noise, self._baseline.labels)
        return errors_by_step(trajectory(*given, self._pipeline.guidance, executor), self._baseline)
