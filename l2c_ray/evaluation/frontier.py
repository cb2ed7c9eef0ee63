"""The frontier protocol: how any two ways of making the same images cheaper are compared.

Image i has label i mod the number of classes and seed 10000 + i. Every candidate makes the same images; its error
is measured against the full run's.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.evaluation.quality import frechet_distance, mean_squared_error, peak_signal_to_noise
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance, Provenance, Quality, Schedule

PROTOCOL = "frontier/1"
FIRST_SEED = 10000


@dataclass(frozen=True)
class Candidate:
    """One way to make the images: a sampler with so many steps, under a schedule or computing everything."""

    name: str
    steps: int
    schedule: Schedule | None
    compute_share: float
    """Of the full run's multiply-accumulates."""


@dataclass(frozen=True)
class Measurement:
    """What one candidate did on the protocol's images."""

    name: str
    compute_share: float
    seconds: float
    """Sampling time of all images, summed over the processes that shared them."""
    speedup: float
    """Seconds of the full run over these."""
    mse: float
    """To the full run's images, in [-1, 1]."""
    psnr: float | None
    """In dB, of that error; None where it is zero."""
    frechet_to_full: float
    frechet_to_real: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def quality(self, images: int) -> Quality:
        """What goes into a schedule's file: what does not depend on the machine's speed, to six digits."""
        metrics = {
            "mse": self.mse,
            "psnr": self.psnr,
            "frechet_to_full": self.frechet_to_full,
            "frechet_to_real": self.frechet_to_real,
        }
        rounded = {name: float(f"{value:.6g}") for name, value in metrics.items() if value is not None}
        return Quality(protocol=f"{PROTOCOL} images={images}", metrics=rounded)


SampleImages = Callable[[Candidate, Sequence[int], Sequence[int]], tuple[Tensor, float]]
"""(candidate, labels, seeds) -> (images [n, channels, height, width], seconds of sampling)."""


class Sampler:
    """Samples any candidate of one model in this process."""

    def __init__(self, model: CacheableTransformer, sampler: str, guidance: Guidance, batch_size: int) -> None:
        self._model = model
        self._sampler = sampler
        self._guidance = guidance
        self._batch_size = batch_size
        # The first run of a process is slow for reasons that are no candidate's.
        self(Candidate("warm-up", 2, None, 1.0), [0] * batch_size, range(batch_size))

    def __call__(self, candidate: Candidate, labels: Sequence[int], seeds: Sequence[int]) -> tuple[Tensor, float]:
        """As `SampleImages`."""
        solver = make_solver(self._sampler, candidate.steps, self._model)
        pipeline = Pipeline(self._model, solver, self._guidance)
        start = time.perf_counter()
        images = pipeline.generate(labels, seeds, candidate.schedule, self._batch_size)
        return images, time.perf_counter() - start


def standard_candidates(pipeline: Pipeline, schedules: Mapping[str, Schedule]) -> list[Candidate]:
    """The full run, the schedules by name, and the rules to beat: fewer steps at each one's compute, fixed interval."""
    steps, sampler = pipeline.solver.steps, pipeline.solver.name
    mine = [_scheduled(name, schedule) for name, schedule in schedules.items()]
    bought = sorted({max(1, int(candidate.compute_share * steps + 1e-9)) for candidate in mine}, reverse=True)
    fewer = [Candidate(f"{sampler}, {fewer} steps", fewer, None, fewer / steps) for fewer in bought]
    return [Candidate("full", steps, None, 1.0), *mine, *fewer, _fixed_interval(pipeline, interval=2)]


def _scheduled(name: str, schedule: Schedule) -> Candidate:
    return Candidate(name, schedule.sampler.steps, schedule, schedule.compute_share)


def _fixed_interval(pipeline: Pipeline, interval: int) -> Candidate:
    """Everything at every `interval`-th step, nothing in between (FORA)."""
    table = fixed_interval(pipeline.solver.steps, len(pipeline.model.units), interval)
    provenance = Provenance(policy="fixed-interval", settings={"interval": interval})
    return _scheduled(f"fixed interval {interval}", make_schedule(pipeline, table, provenance))


def measure(
    candidates: Sequence[Candidate], sample: SampleImages, images: int, num_classes: int, real: Tensor
) -> list[Measurement]:
    """Runs every candidate on the same images; the first must be the full run that the others are compared with.

    Args:
        images: how many.
        real: real images [n, channels, height, width] for the Fréchet distance.
    """
    labels = [index % num_classes for index in range(images)]
    seeds = range(FIRST_SEED, FIRST_SEED + images)
    reference, full_seconds = sample(candidates[0], labels, seeds)
    measurements = [_measurement(candidates[0], reference, reference, full_seconds, full_seconds, real)]
    for candidate in candidates[1:]:
        made, seconds = sample(candidate, labels, seeds)
        measurements.append(_measurement(candidate, made, reference, seconds, full_seconds, real))
    return measurements


def _measurement(
    candidate: Candidate, images: Tensor, reference: Tensor, seconds: float, full_seconds: float, real: Tensor
) -> Measurement:
    error = mean_squared_error(images, reference)
    return Measurement(
        name=candidate.name,
        compute_share=candidate.compute_share,
        seconds=seconds,
        speedup=full_seconds / seconds,
        mse=error,
        psnr=peak_signal_to_noise(error),
        frechet_to_full=frechet_distance(images, reference),
        frechet_to_real=frechet_distance(images, real),
    )
