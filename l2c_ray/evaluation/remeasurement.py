"""Measuring schedules anew, image by image and chunk by chunk, so that what is found has a confidence interval."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from l2c_ray.data.seeding import draw_seed
from l2c_ray.evaluation.bootstrap import Interval, Resampling
from l2c_ray.evaluation.classifier import DigitClassifier
from l2c_ray.evaluation.frontier import FIRST_SEED, Candidate, Meter, OnImages, SampleImages
from l2c_ray.evaluation.quality import frechet_distance
from l2c_ray.schedule import Mask

_ABOVE_ALL_FRONTIER_SEEDS = 1 << 62


class Draws(NamedTuple):
    """Which images are made."""

    labels: list[int]
    seeds: list[int]


def frontier_draws(images: int, num_classes: int) -> Draws:
    """The first images of the frontier protocol."""
    return Draws([number % num_classes for number in range(images)], [FIRST_SEED + n for n in range(images)])


def fresh_draws(seed: int, purpose: str, images: int, num_classes: int) -> Draws:
    """Images that no schedule was chosen by, the same ones for the same seed and purpose.

    Their seeds lie above every seed of the frontier protocol. Learning draws its own by the same function for other
    purposes, so that one would be met again once in 2^62 draws.
    """
    seeds = [draw_seed(seed, f"fresh images {purpose}", number) | _ABOVE_ALL_FRONTIER_SEEDS for number in range(images)]
    return Draws([number % num_classes for number in range(images)], seeds)


@dataclass(frozen=True)
class Remeasured:
    """What one candidate did, image by image."""

    candidate: Candidate
    errors: Tensor
    """[images]: mean squared error to the full run's image of the same seed."""
    features: Tensor | None
    """[images, 64] in the digit classifier; None for images that it cannot judge."""
    seconds: Tensor
    """[chunks]: of sampling, summed over the processes that shared a chunk."""
    computed: tuple[Mask, ...]
    """How often each unit was computed at each step, for every executor that told."""

    def error(self, resampling: Resampling) -> Interval:
        """Mean squared error to the full run."""
        return resampling.interval(len(self.errors), lambda numbers: self.errors[numbers].mean().item())

    def error_over(self, other: "Remeasured", resampling: Resampling) -> Interval:
        """How much more error than the other's, by pairs of images of one seed."""
        difference = self.errors - other.errors
        return resampling.interval(len(difference), lambda numbers: difference[numbers].mean().item())

    def distance_to(self, full: "Remeasured", resampling: Resampling) -> Interval | None:
        """Fréchet distance to the full run's images, both sets drawn with the same numbers.

        An image that is drawn twice makes a set smaller, and the distance of smaller sets is larger: the interval
        errs to the side of caution.
        """
        mine, theirs = self.features, full.features
        if mine is None or theirs is None:
            return None
        return resampling.interval(len(mine), lambda numbers: frechet_distance(mine[numbers], theirs[numbers]))

    def speedup_over(self, other: "Remeasured", resampling: Resampling) -> Interval:
        """The other's seconds over these, the median over the chunks."""
        ratios = other.seconds / self.seconds
        return resampling.interval(len(ratios), lambda numbers: statistics.median(ratios[numbers].tolist()))


def remeasure(
    candidates: Sequence[Candidate],
    sample: SampleImages,
    draws: Draws,
    chunk: int,
    judge: DigitClassifier | None,
    on_images: OnImages = lambda made: None,
) -> list[Remeasured]:
    """Runs every candidate on the same images, in turn on each chunk of them; the first is the full run.

    Args:
        chunk: images that each candidate makes before it is the next one's turn.
        judge: gives the features; None where images are no digits.
        on_images: called at first, and whenever some were made.
    """
    errors: list[list[Tensor]] = [[] for _ in candidates]
    features: list[list[Tensor]] = [[] for _ in candidates]
    seconds: list[list[float]] = [[] for _ in candidates]
    computed: list[tuple[Mask, ...]] = [() for _ in candidates]
    meter = Meter(candidates, len(draws.seeds), on_images)
    for start in range(0, len(draws.seeds), chunk):
        part = slice(start, start + chunk)
        reference: Tensor | None = None
        for number, candidate in enumerate(candidates):
            made = sample(candidate, draws.labels[part], draws.seeds[part])
            reference = made.images if reference is None else reference
            errors[number].append((made.images.double() - reference.double()).square().flatten(1).mean(1))
            if judge:
                features[number].append(judge(made.images))
            seconds[number].append(made.seconds)
            computed[number] += made.computed
            meter.add(candidate, len(made.images))
    return [
        Remeasured(
            candidate=candidate,
            errors=torch.cat(errors[number]),
            features=torch.cat(features[number]) if judge else None,
            seconds=torch.tensor(seconds[number], dtype=torch.float64),
            computed=computed[number],
        )
        for number, candidate in enumerate(candidates)
    ]
