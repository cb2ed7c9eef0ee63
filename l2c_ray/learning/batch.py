"""What the trajectories of one iteration tell together, be they run all at once or a few at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.learning.budget_router import table_of
from l2c_ray.learning.rollout import FullRun, Rollout, squared_errors
from l2c_ray.learning.weighing import Weighing
from l2c_ray.sampling.loop import trajectory


@dataclass(frozen=True)
class Choices:
    """What is known about every choice, each [steps - 1, units]; of several parts of a batch it adds up."""

    slopes_by_gates: Tensor
    slopes_by_coefficients: Tensor
    """Gradients of the error at the end, with a part of that along the way."""
    bends_by_gates: Tensor
    bends_by_coefficients: Tensor
    """Halves of the second derivatives of the error at the end, estimated by one direction."""
    changes: Tensor
    """As `Student` notes them."""
    slopes: Tensor
    """Likewise."""

    def __add__(self, other: "Choices") -> "Choices":
        return Choices(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


class Batch:
    """Trajectories under a mask and coefficients from the noise of a full run.

    What a graph takes grows with the images in it. A large model takes few at a time, each evaluation's graph made
    again for every pass back; since the images' weights follow from the errors of all, a run without a graph comes
    first then.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        full: FullRun,
        mask: Tensor,
        coefficients: Tensor,
        *,
        along_the_way: float,
        images_at_once: int | None = None,
    ) -> None:
        """Runs it once.

        Args:
            mask, coefficients: those of a `Student`.
            along_the_way: as `Weighing.of` has it.
            images_at_once: whose graphs are kept at a time; None keeps that of the whole batch.
        """
        self._pipeline = pipeline
        self._full = full
        self._mask = mask
        self._coefficients = coefficients
        self._images_at_once = images_at_once
        self._whole = None if images_at_once else Rollout(pipeline, full, mask, coefficients)
        self._squares = self._whole.squares.detach() if self._whole else self._squares_of(mask)
        self.weighing = Weighing.of(self._squares, along_the_way)

    def choices(self, direction: Tensor) -> Choices:
        """What every choice does to the error.

        Args:
            direction: in which the images may end elsewhere, normally distributed, of the images' shape.
        """
        first, *others = (self._choices_of(images, direction) for images in self._parts())
        return sum(others, first)

    def coefficients_effects(self, directions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The gradient of the error at the end by the coefficients, [steps - 1, units], and their effects.

        Args:
            directions: as `choices` has one.

        Returns:
            The effects [directions, images, steps - 1, units], as of `Rollout.effects`.
        """
        told = [self._coefficients_effects_of(images, directions) for images in self._parts()]
        gradients, effects = zip(*told, strict=True)
        return torch.stack(gradients).sum(0), torch.cat(effects, dim=1)

    def gains(self, mask: Tensor) -> Tensor:
        """What each image [images] would gain by another mask under the same coefficients, by the mean score now."""
        now, then = (self.weighing.scores(squares[-1]) for squares in (self._squares, self._squares_of(mask)))
        return (now - then) / (now.mean() + torch.finfo(now.dtype).tiny)

    def _choices_of(self, images: slice, direction: Tensor) -> Choices:
        rollout = self._roll_out(images)
        by_gates, by_coefficients = rollout.slopes(self.weighing.everywhere[:, images])
        effects = rollout.effects(self._weighed(direction)[images], last=True)
        bend_by_gates, bend_by_coefficients = (each.square().sum(-1) for each in effects)
        student = rollout.student
        return Choices(by_gates, by_coefficients, bend_by_gates, bend_by_coefficients, student.changes, student.slopes)

    def _coefficients_effects_of(self, images: slice, directions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        rollout = self._roll_out(images)
        gradient = rollout.slope_of_the_end(self.weighing.at_the_end[images])
        effects = [
            rollout.effects(self._weighed(direction)[images], last=direction is directions[-1])[1]
            for direction in directions
        ]
        return gradient, torch.stack(effects).movedim(-1, 1)

    def _parts(self) -> Iterator[slice]:
        images = len(self._full.labels)
        at_once = self._images_at_once or images
        return (slice(first, first + at_once) for first in range(0, images, at_once))

    def _roll_out(self, images: slice) -> Rollout:
        if self._whole:
            return self._whole
        return Rollout(self._pipeline, self._full.part(images), self._mask, self._coefficients, recompute=True)

    def _weighed(self, direction: Tensor) -> Tensor:
        """So that squares of effects add up to the Gauss-Newton matrix of the weighted error."""
        pixels = direction[0].numel()
        return direction * (self.weighing.at_the_end / pixels).sqrt().view(-1, 1, 1, 1)

    @torch.no_grad()
    def _squares_of(self, mask: Tensor) -> Tensor:
        """By the schedule itself, without a graph."""
        executor = ScheduleExecutor(table_of(mask, self._coefficients))
        given = (self._pipeline.model, self._pipeline.solver, self._full.noise, self._full.labels)
        return squared_errors(trajectory(*given, self._pipeline.guidance, executor), self._full)
