"""Measuring schedules anew, image by image and chunk by chunk, so that results have confidence intervals."""

import statistics
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from l2c_ray.data.seeding import draw_seed
from l2c_ray.evaluation.bootstrap import Interval, Resampling
from l2c_ray.evaluation.classifier import DigitClassifier
from l2c_ray.evaluation.comparison import Comparison
from l2c_ray.evaluation.frontier import FIRST_SEED, Candidate, OnImages, Sampled, SampleImages, run_in_turn
from l2c_ray.evaluation.quality import frechet_distance
from l2c_ray.schedule import Mask

_ABOVE_ALL_FRONTIER_SEEDS = 1 << 62


class Draws(NamedTuple):
    """Labels and seeds of the images to be made."""

    labels: list[int]
    seeds: list[int]


def frontier_draws(images: int, num_classes: int) -> Draws:
    """The first images of the frontier protocol."""
    return Draws([number % num_classes for number in range(images)], [FIRST_SEED + n for n in range(images)])


def fresh_draws(seed: int, purpose: str, images: int, num_classes: int) -> Draws:
    """Images that played no part in choosing any schedule, the same ones for the same seed and purpose.

    Their seeds lie above every seed of the frontier protocol. Learning draws its own by the same function for other
    purposes, so that one would be met again once in 2^62 draws.
    """
    seeds = [draw_seed(seed, f"fresh images {purpose}", number) | _ABOVE_ALL_FRONTIER_SEEDS for number in range(images)]
    return Draws([number % num_classes for number in range(images)], seeds)


@dataclass(frozen=True)
class Remeasured:
    """Result of one candidate, image by image."""

    candidate: Candidate
    errors: Tensor
    """[images]: mean squared error to the baseline's image of the same seed."""
    features: Tensor | None
    """[images, 64] in the digit classifier; None for images that it cannot judge."""
    seconds: Tensor
    """[chunks]: sampling time, summed over the processes that shared a chunk."""
    computed: tuple[Mask, ...]
    """Number of times that each unit was computed at each step, for every executor with a record."""

    def error(self, resampling: Resampling) -> Interval:
        """Mean squared error to the baseline."""
        return resampling.interval(len(self.errors), lambda numbers: self.errors[numbers].mean().item())

    def error_over(self, other: "Remeasured", resampling: Resampling) -> Interval:
        """Difference of the mean squared errors, this minus the other, by pairs of images of one seed."""
        difference = self.errors - other.errors
        return resampling.interval(len(difference), lambda numbers: difference[numbers].mean().item())

    def distance_to(self, baseline: "Remeasured", resampling: Resampling) -> Interval | None:
        """Fréchet distance to the baseline's images, both sets drawn with the same numbers; None without features.

        An image that is drawn twice makes a set smaller, and the distance of smaller sets is larger: the interval
        errs to the side of caution.
        """
        mine, theirs = self.features, baseline.features
        if mine is None or theirs is None:
            return None
        return resampling.interval(len(mine), lambda numbers: frechet_distance(mine[numbers], theirs[numbers]))

    def speedup_over(self, other: "Remeasured", resampling: Resampling) -> Interval:
        """Seconds of the other over these: the median over the chunks."""
        ratios = other.seconds / self.seconds
        return resampling.interval(len(ratios), lambda numbers: statistics.median(ratios[numbers].tolist()))


def remeasure(
    candidates: Comparison[Candidate],
    sample: SampleImages,
    draws: Draws,
    chunk: int,
    judge: DigitClassifier | None,
    on_images: OnImages = lambda progress: None,
) -> Comparison[Remeasured]:
    """Runs every candidate on the same images, in turn on each chunk of them.

    Args:
        chunk: images that each candidate makes before the next candidate's turn.
        judge: gives the features; None where images are no digits.
        on_images: called at the start, and whenever some were made.
    """
    tallies = candidates.with_results(_Tally(candidate, judge) for candidate in candidates)
    run_in_turn(tallies, sample, draws.labels, draws.seeds, chunk, on_images)
    return candidates.with_results(tally.result() for tally in tallies)


class _Tally:
    """Results of one candidate so far, image by image and chunk by chunk."""

    def __init__(self, candidate: Candidate, judge: DigitClassifier | None) -> None:
        self.candidate = candidate
        self._judge = judge
        self._errors: list[Tensor] = []
        self._features: list[Tensor] = []
        self._seconds: list[float] = []
        self._computed: tuple[Mask, ...] = ()

    def add(self, sampled: Sampled, reference: Tensor) -> None:
        self._errors.append((sampled.images.double() - reference.double()).square().flatten(1).mean(1))
        if self._judge:
            self._features.append(self._judge(sampled.images))
        self._seconds.append(sampled.seconds)
        self._computed += sampled.computed

    def result(self) -> Remeasured:
        return Remeasured(
            candidate=self.candidate,
            errors=torch.cat(self._errors),
            features=torch.cat(self._features) if self._judge else None,
            seconds=torch.tensor(self._seconds, dtype=torch.float64),
            computed=self._computed,
        )
