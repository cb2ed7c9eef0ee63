"""The frontier protocol: how any two ways of making the same images cheaper are compared.

Image i has label i mod the number of classes and seed 10000 + i. Every candidate makes the same images; its error
is measured against the baseline's. All of them take their turn on each chunk of images, so that memory does not grow
with the number of images and a machine that slows down slows all alike.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.caching.recording import RecordedExecutor
from l2c_ray.evaluation import classifier
from l2c_ray.evaluation.comparison import Comparison
from l2c_ray.evaluation.quality import ErrorTally, frechet_distance, kernel_distance, peak_signal_to_noise
from l2c_ray.models.macs import count_macs
from l2c_ray.schedule import Mask, Quality, Schedule

PROTOCOL = "frontier/1"
FIRST_SEED = 10000
FEWER_STEPS = "fewer steps"
"""The curve of the same sampler with fewer steps, computing everything."""


@dataclass(frozen=True)
class Candidate:
    """One way to make the images: a sampler with so many steps, computing everything unless told what to reuse."""

    name: str
    curve: str
    """The curve that it is a point of, for instance `fewer steps`."""
    steps: int
    schedule: Schedule | None
    compute_share: float
    """Share of the baseline's multiply-accumulates; an upper bound where an executor decides while it samples."""
    executor: Callable[[], RecordedExecutor] | None = None
    """Makes the executor of one batch, which records what it computed; None runs the schedule without a record."""


@dataclass(frozen=True)
class ImageProgress:
    """Progress of a measurement."""

    candidates: int
    images: int
    """Images per candidate when it is done."""
    done: int
    """Images of all candidates so far."""
    share: float
    """Finished share of the measurement, by compute, in [0, 1]."""
    candidate: str
    """The candidate whose images were just made; empty at the start."""

    @property
    def total(self) -> int:
        """Images of all candidates when it is done."""
        return self.candidates * self.images


OnImages = Callable[[ImageProgress], None]
"""Called at the start, and whenever a candidate has made some images."""


class Meter:
    """Counts the images of a measurement and reports them after each candidate's turn."""

    def __init__(self, candidates: Iterable[Candidate], images: int, on_images: OnImages) -> None:
        shares = [candidate.compute_share for candidate in candidates]
        self._progress = ImageProgress(len(shares), images, done=0, share=0.0, candidate="")
        self._whole = images * sum(shares)
        self._report = on_images
        on_images(self._progress)

    def add(self, candidate: Candidate, images: int) -> None:
        """Counts `images` more of the candidate's."""
        before = self._progress
        done, share = before.done + images, before.share + images * candidate.compute_share / self._whole
        # A sum of shares misses 1 by rounding.
        share = 1.0 if done == before.total else share
        self._progress = replace(before, done=done, share=share, candidate=candidate.name)
        self._report(self._progress)


@dataclass(frozen=True)
class Measurement:
    """Result of one candidate on the protocol's images."""

    name: str
    curve: str
    compute_share: float
    removed_share: float | None
    """Reused share of the units at the schedule's cache steps; None without a schedule."""
    seconds: float
    """Sampling time of all images, summed over the processes that shared them."""
    speedup: float
    """Seconds of the baseline over these: the median over the chunks."""
    mse: float
    """Mean squared error to the baseline's images, whose pixels are in [-1, 1]."""
    psnr: float | None
    """Peak signal-to-noise ratio of that error, in dB; None where it is zero."""
    ssim: float
    """Structural similarity to the baseline's images, at most 1."""
    frechet_to_full: float | None
    """Fréchet distance to the baseline's images. This and the next two are None for images that the digit classifier
    cannot judge."""
    frechet_to_real: float | None
    kernel_to_full: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def quality(self, images: int) -> Quality:
        """The part that does not depend on the machine's speed, to six digits, for a schedule's file."""
        names = ("mse", "psnr", "ssim", "frechet_to_full", "frechet_to_real", "kernel_to_full")
        metrics = {name: getattr(self, name) for name in names}
        rounded = {name: float(f"{value:.6g}") for name, value in metrics.items() if value is not None}
        return Quality(protocol=f"{PROTOCOL} images={images}", metrics=rounded)


class Sampled(NamedTuple):
    """One chunk of a candidate's images."""

    images: Tensor
    """[n, channels, height, width], in about [-1, 1]."""
    seconds: float
    """Sampling time."""
    compute_share: float
    """Share of the baseline's multiply-accumulates."""
    computed: tuple[Mask, ...] = ()
    """Number of times that each unit was computed at each step, for each executor with a record."""


SampleImages = Callable[[Candidate, Sequence[int], Sequence[int]], Sampled]
"""(candidate, labels, seeds) -> the images of these labels and seeds, and their cost."""


class Sampler:
    """Samples any candidate of one pipeline in this process, whatever its number of steps."""

    def __init__(self, pipeline: Pipeline, batch_size: int) -> None:
        self._pipeline = pipeline
        self._batch_size = batch_size
        self._macs = count_macs(pipeline.model).with_attention
        # The first batch of a process is slow whatever the candidate.
        self(Candidate("warm-up", "warm-up", 2, None, 1.0), [0] * batch_size, range(batch_size))

    def __call__(self, candidate: Candidate, labels: Sequence[int], seeds: Sequence[int]) -> Sampled:
        """A chunk of images (see `SampleImages`); an executor decides about all of them at once."""
        pipeline = self._pipeline.with_steps(candidate.steps)
        start = time.perf_counter()
        if candidate.executor is None:
            images = pipeline.generate(labels, seeds, candidate.schedule, self._batch_size)
            return Sampled(images, time.perf_counter() - start, candidate.compute_share)
        if candidate.schedule:
            pipeline.require_made_for(candidate.schedule)
        executor = candidate.executor()
        images = pipeline.generate_batch(labels, seeds, executor)
        seconds = time.perf_counter() - start
        computed = tuple(tuple(row) for row in executor.computed)
        return Sampled(images, seconds, self._macs.of(computed).share, (computed,))


class RememberingSampler:
    """Samples in this process; makes the baseline's images, which all trials are compared with, once."""

    def __init__(self, sample: SampleImages) -> None:
        self._sample = sample
        self._baseline: dict[tuple[int, ...], Sampled] = {}

    def __call__(self, candidate: Candidate, labels: Sequence[int], seeds: Sequence[int]) -> Sampled:
        if candidate.schedule is not None:
            return self._sample(candidate, labels, seeds)
        if tuple(seeds) not in self._baseline:
            self._baseline[tuple(seeds)] = self._sample(candidate, labels, seeds)
        return self._baseline[tuple(seeds)]


def measure(
    candidates: Comparison[Candidate],
    sample: SampleImages,
    images: int,
    num_classes: int,
    real: Tensor | None,
    chunk: int,
    on_images: OnImages = lambda progress: None,
    first_seed: int = FIRST_SEED,
) -> Comparison[Measurement]:
    """Runs every candidate on the same images.

    Args:
        images: number of images per candidate, at least 2.
        real: real digits [n, 1, 8, 8] for the distances of sets; None where the model draws something else.
        chunk: images that each candidate makes before the next candidate's turn.
        on_images: called at the start, and whenever some were made.
        first_seed: seed of the first image; the following images have the seeds after it.
    """
    judge = None if real is None else classifier.load()
    tallies = candidates.with_results(_Tally(candidate, ErrorTally(judge)) for candidate in candidates)
    labels = [number % num_classes for number in range(images)]
    run_in_turn(tallies, sample, labels, range(first_seed, first_seed + images), chunk, on_images)
    real_features = judge(real) if judge and real is not None else None
    return candidates.with_results(tally.measurement(tallies.baseline, real_features) for tally in tallies)


class Tally(Protocol):
    """Results of one candidate, added up chunk by chunk."""

    candidate: Candidate

    def add(self, sampled: Sampled, reference: Tensor) -> None:
        """Adds a chunk; `reference` are the baseline's images of the same seeds."""


AnyTally = TypeVar("AnyTally", bound=Tally)


def run_in_turn(
    tallies: Comparison[AnyTally],
    sample: SampleImages,
    labels: Sequence[int],
    seeds: Sequence[int],
    chunk: int,
    on_images: OnImages,
) -> None:
    """Samples the same images with every candidate, in turn on each chunk, and adds them to its tally."""
    meter = Meter((tally.candidate for tally in tallies), len(seeds), on_images)
    for start in range(0, len(seeds), chunk):
        part = slice(start, start + chunk)
        reference = sample(tallies.baseline.candidate, labels[part], seeds[part])
        for tally in tallies:
            is_baseline = tally is tallies.baseline
            sampled = reference if is_baseline else sample(tally.candidate, labels[part], seeds[part])
            tally.add(sampled, reference.images)
            meter.add(tally.candidate, len(seeds[part]))


class _Tally:
    """Sums over the images of one candidate."""

    def __init__(self, candidate: Candidate, errors: ErrorTally) -> None:
        self.candidate = candidate
        self._errors = errors
        self._seconds: list[float] = []
        """Sampling time of each chunk."""
        self._shares: list[tuple[float, int]] = []
        """Compute share and number of images of each chunk."""

    def add(self, sampled: Sampled, reference: Tensor) -> None:
        self._errors.add(sampled.images, reference)
        self._seconds.append(sampled.seconds)
        self._shares.append((sampled.compute_share, len(sampled.images)))

    def measurement(self, baseline: "_Tally", real_features: Tensor | None) -> Measurement:
        errors, features, baseline_features = self._errors, self._errors.features, baseline._errors.features
        to_baseline, to_real, kernel = None, None, None
        if features is not None and baseline_features is not None and real_features is not None:
            to_baseline, to_real = (frechet_distance(features, other) for other in (baseline_features, real_features))
            kernel = kernel_distance(features, baseline_features)
        ratios = [there / here for there, here in zip(baseline._seconds, self._seconds, strict=True)]
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
            frechet_to_full=to_baseline,
            frechet_to_real=to_real,
            kernel_to_full=kernel,
        )


def beats_fewer_steps(comparison: Comparison[Measurement], name: str) -> bool:
    """Whether the schedule has less error than fewer steps have at the same compute share or less."""
    mine = comparison.schedules[name]
    rivals = [rival for rival in comparison.rivals if rival.curve == FEWER_STEPS]
    return all(mine.mse < rival.mse for rival in rivals if rival.compute_share <= mine.compute_share)
