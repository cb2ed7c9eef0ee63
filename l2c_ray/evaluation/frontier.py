"""The frontier protocol: how any two ways of making the same images cheaper are compared.

Image i has label i mod the number of classes and seed 10000 + i. Every candidate makes the same images; its error
is measured against the full run's. All of them take their turn on each chunk of images, so that memory does not grow
with the number of images and a machine that slows down slows all alike.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.caching.recording import RecordedExecutor
from l2c_ray.evaluation import classifier
from l2c_ray.evaluation.quality import ErrorTally, frechet_distance, kernel_distance, peak_signal_to_noise
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.macs import count_macs
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance, Mask, Quality, Schedule

PROTOCOL = "frontier/1"
FIRST_SEED = 10000
FEWER_STEPS = "fewer steps"
"""The curve of the same sampler, computing everything."""


@dataclass(frozen=True)
class Candidate:
    """One way to make the images: a sampler with so many steps, computing everything unless told what to reuse."""

    name: str
    curve: str
    """What it is a point of, for instance `fewer steps`."""
    steps: int
    schedule: Schedule | None
    compute_share: float
    """Of the full run's multiply-accumulates; at most so much where an executor decides while it samples."""
    executor: Callable[[], RecordedExecutor] | None = None
    """Makes what runs one batch, and tells afterwards what it computed; None runs the schedule and tells nothing."""


@dataclass(frozen=True)
class Made:
    """How far a measurement has come."""

    candidates: int
    images: int
    """Images of each candidate in the end."""
    done: int
    """Images of all candidates so far."""
    share: float
    """Share of the measurement that is done, by compute, in [0, 1]."""
    candidate: str
    """Whose images were just made; empty at first."""

    @property
    def total(self) -> int:
        """Images of all candidates in the end."""
        return self.candidates * self.images


OnImages = Callable[[Made], None]
"""Told at first, and whenever a candidate has made some images."""


class Meter:
    """Counts what a measurement has made, and tells it after each candidate's turn."""

    def __init__(self, candidates: Sequence[Candidate], images: int, on_images: OnImages) -> None:
        self._made = Made(len(candidates), images, done=0, share=0.0, candidate="")
        self._whole = images * sum(candidate.compute_share for candidate in candidates)
        self._tell = on_images
        on_images(self._made)

    def add(self, candidate: Candidate, images: int) -> None:
        """So many more of this candidate's."""
        done, share = self._made.done + images, self._made.share + images * candidate.compute_share / self._whole
        # A sum of shares misses 1 by rounding.
        share = 1.0 if done == self._made.total else share
        self._made = replace(self._made, done=done, share=share, candidate=candidate.name)
        self._tell(self._made)


@dataclass(frozen=True)
class Measurement:
    """What one candidate did on the protocol's images."""

    name: str
    curve: str
    compute_share: float
    removed_share: float | None
    """Of the units of the schedule's cache steps; None without a schedule."""
    seconds: float
    """Sampling time of all images, summed over the processes that shared them."""
    speedup: float
    """Seconds of the full run over these: the median over the chunks."""
    mse: float
    """To the full run's images, in [-1, 1]."""
    psnr: float | None
    """In dB, of that error; None where it is zero."""
    ssim: float
    """Structural similarity to the full run's images, at most 1."""
    frechet_to_full: float | None
    """This and the next two are None for images that the digit classifier cannot judge."""
    frechet_to_real: float | None
    kernel_to_full: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def quality(self, images: int) -> Quality:
        """What goes into a schedule's file: what does not depend on the machine's speed, to six digits."""
        names = ("mse", "psnr", "ssim", "frechet_to_full", "frechet_to_real", "kernel_to_full")
        metrics = {name: getattr(self, name) for name in names}
        rounded = {name: float(f"{value:.6g}") for name, value in metrics.items() if value is not None}
        return Quality(protocol=f"{PROTOCOL} images={images}", metrics=rounded)


class Sampled(NamedTuple):
    """What a candidate made of one chunk."""

    images: Tensor
    """[n, channels, height, width], in about [-1, 1]."""
    seconds: float
    """Of sampling."""
    compute_share: float
    """Of the full run's multiply-accumulates."""
    computed: tuple[Mask, ...] = ()
    """How often each unit was computed at each step, for each executor that tells."""


SampleImages = Callable[[Candidate, Sequence[int], Sequence[int]], Sampled]
"""(candidate, labels, seeds) -> the images of these labels and seeds, and what they cost."""


class Sampler:
    """Samples any candidate of one model in this process."""

    def __init__(self, model: CacheableTransformer, sampler: str, guidance: Guidance, batch_size: int) -> None:
        self._model = model
        self._sampler = sampler
        self._guidance = guidance
        self._batch_size = batch_size
        self._macs = count_macs(model).with_attention
        # The first run of a process is slow for reasons that are no candidate's.
        self(Candidate("warm-up", "warm-up", 2, None, 1.0), [0] * batch_size, range(batch_size))

    def __call__(self, candidate: Candidate, labels: Sequence[int], seeds: Sequence[int]) -> Sampled:
        """As `SampleImages`; an executor decides about all these images at once."""
        solver = make_solver(self._sampler, candidate.steps, self._model)
        pipeline = Pipeline(self._model, solver, self._guidance)
        start = time.perf_counter()
        if candidate.executor is None:
            images = pipeline.generate(labels, seeds, candidate.schedule, self._batch_size)
            return Sampled(images, time.perf_counter() - start, candidate.compute_share)
        if candidate.schedule:
            candidate.schedule.require(self._model.identity(), solver.identity(self._guidance))
        executor = candidate.executor()
        images = pipeline.generate_batch(labels, seeds, executor)
        seconds = time.perf_counter() - start
        computed = tuple(tuple(row) for row in executor.computed)
        return Sampled(images, seconds, self._macs.of(computed).share, (computed,))


class RememberingSampler:
    """Samples in this process, and makes the full run's images, which all trials are compared with, but once."""

    def __init__(self, sample: SampleImages) -> None:
        self._sample = sample
        self._full: dict[tuple[int, ...], Sampled] = {}

    def __call__(self, candidate: Candidate, labels: Sequence[int], seeds: Sequence[int]) -> Sampled:
        if candidate.schedule is not None:
            return self._sample(candidate, labels, seeds)
        if tuple(seeds) not in self._full:
            self._full[tuple(seeds)] = self._sample(candidate, labels, seeds)
        return self._full[tuple(seeds)]


def measure(
    candidates: Sequence[Candidate],
    sample: SampleImages,
    images: int,
    num_classes: int,
    real: Tensor | None,
    chunk: int,
    on_images: OnImages = lambda made: None,
    first_seed: int = FIRST_SEED,
) -> list[Measurement]:
    """Runs every candidate on the same images; the first must be the full run that the others are compared with.

    Args:
        images: how many, at least 2.
        real: real digits [n, 1, 8, 8] for the distances of sets; None where the model draws something else.
        chunk: images that each candidate makes before it is the next one's turn.
        on_images: called at first, and whenever some were made.
        first_seed: of the first image, whose successors have the seeds after it; the protocol's unless given.
    """
    meter = Meter(candidates, images, on_images)
    judge = None if real is None else classifier.load()
    tallies = [_Tally(candidate, ErrorTally(judge)) for candidate in candidates]
    for start in range(0, images, chunk):
        numbers = range(start, min(start + chunk, images))
        labels = [number % num_classes for number in numbers]
        seeds = [first_seed + number for number in numbers]
        reference = sample(candidates[0], labels, seeds)
        for tally in tallies:
            made = sample(tally.candidate, labels, seeds) if tally is not tallies[0] else reference
            tally.add(made, reference.images)
            meter.add(tally.candidate, len(numbers))
    real_features = judge(real) if judge and real is not None else None
    return [tally.measurement(tallies[0], real_features) for tally in tallies]


class _Tally:
    """One candidate's results so far."""

    def __init__(self, candidate: Candidate, errors: ErrorTally) -> None:
        self.candidate = candidate
        self._errors = errors
        self._seconds: list[float] = []
        """Of each chunk."""
        self._shares: list[tuple[float, int]] = []
        """Of each chunk, with its images."""

    def add(self, made: Sampled, reference: Tensor) -> None:
        self._errors.add(made.images, reference)
        self._seconds.append(made.seconds)
        self._shares.append((made.compute_share, len(made.images)))

    def measurement(self, full: "_Tally", real_features: Tensor | None) -> Measurement:
        errors, features, full_features = self._errors, self._errors.features, full._errors.features
        to_full, to_real, kernel = None, None, None
        if features is not None and full_features is not None and real_features is not None:
            to_full, to_real = (frechet_distance(features, other) for other in (full_features, real_features))
            kernel = kernel_distance(features, full_features)
        ratios = [there / here for there, here in zip(full._seconds, self._seconds, strict=True)]
        return Measurement(
            name=self.candidate.name,
            curve=self.candidate.curve,
            compute_share=sum(share * images for share, images in self._shares) / sum(n for _, n in self._shares),
            removed_share=self.candidate.schedule.table.removed_share if self.candidate.schedule else None,
            seconds=sum(self._seconds),
            speedup=statistics.median(ratios),
            mse=errors.mse,
            psnr=peak_signal_to_noise(errors.mse),
            ssim=errors.ssim,
            frechet_to_full=to_full,
            frechet_to_real=to_real,
            kernel_to_full=kernel,
        )
