"""Wall time of sampling under a schedule beside that of the baseline, and the speed-up that its cost promises."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.caching.profiling import wait_for
from l2c_ray.models.base import compute_all
from l2c_ray.sampling.loop import UnitHandlers, baseline_handlers, evaluate_guided, noise_from_seeds, trajectory
from l2c_ray.schedule import Schedule


@dataclass(frozen=True)
class Timing:
    """Sampling times of pairs of a baseline and a cached run, on the same noise and labels."""

    baseline: tuple[float, ...]
    """Seconds of the baseline of each pair."""
    cached: tuple[float, ...]
    """Seconds of the run under the schedule."""
    promised: float
    """Speed-up if every multiply-accumulate, those in attention included, took equally long and nothing else any
    time."""

    @property
    def speedups(self) -> tuple[float, ...]:
        """Speed-up of each pair."""
        return tuple(full / cached for full, cached in zip(self.baseline, self.cached, strict=True))

    @property
    def speedup(self) -> float:
        """Median speed-up of the pairs."""
        return statistics.median(self.speedups)

    @property
    def kept(self) -> float:
        """The measured speed-up over the promised one."""
        return self.speedup / self.promised


def time_in_turn(
    pipeline: Pipeline, schedule: Schedule, batch_size: int, repeats: int, on_step: Callable[[int, str], None]
) -> Timing:
    """Times whole trajectories, baseline and cached in turn, on the device and in the number format of the weights.

    The two runs of a pair take turns at every step, so that a machine that slows down for a while slows both.

    Args:
        schedule: made for the pipeline.
        repeats: pairs of trajectories.
        on_step: called after each step of a pair with the number of finished steps and the pair's times in words.
    """
    model = pipeline.model
    weights = next(model.parameters())
    noise = noise_from_seeds(range(batch_size), model.image_shape).to(weights)
    labels = torch.arange(batch_size, device=weights.device) % model.num_classes

    def timed(handlers: UnitHandlers) -> Iterator[float]:
        """The seconds of each step."""
        steps = trajectory(model, pipeline.solver, noise, labels, pipeline.guidance, handlers)
        for _ in pipeline.solver.timesteps:
            wait_for(weights.device)
            start = time.perf_counter()
            next(steps)
            wait_for(weights.device)
            yield time.perf_counter() - start

    baseline, cached = [0.0] * repeats, [0.0] * repeats
    with torch.inference_mode():
        # The costs of the first evaluation alone (kernels, memory) are in no step.
        evaluate_guided(model, noise, pipeline.solver.timesteps[0], labels, pipeline.guidance, compute_all)
        for pair in range(repeats):
            in_turn = zip(timed(baseline_handlers), timed(ScheduleExecutor(schedule.table)), strict=True)
            for step, (baseline_seconds, cached_seconds) in enumerate(in_turn, start=1):
                baseline[pair] += baseline_seconds
                cached[pair] += cached_seconds
                note = f"baseline {baseline[pair]:.2f} s, cached {cached[pair]:.2f} s"
                on_step(pair * pipeline.solver.steps + step, note)
    return Timing(tuple(baseline), tuple(cached), 1 / schedule.compute_share)
