"""Profiling: the time that each unit takes on a device, which a schedule saves by reusing it."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from l2c_ray.caching.executor import weighted_sum
from l2c_ray.config.profile import Profile
from l2c_ray.models.base import CacheableTransformer

_FORECAST = (2.0, -1.0)
"""Weights of a forecast of order 1, which a reused unit computes in place of its output."""
_TIMESTEP = 500.0
"""A timestep in the middle; an evaluation takes equally long at every one."""


@torch.inference_mode()
def profile(
    model: CacheableTransformer, batch_size: int, repeats: int, on_evaluation: Callable[[int], None]
) -> Profile:
    """Times the units of whole evaluations, where the model's weights are and in their number format.

    Times are medians over the evaluations, so that a machine that is busy for a moment does not matter.

    Args:
        batch_size: images in one evaluation.
        repeats: evaluations that are timed, after one that is not.
        on_evaluation: called with the number of finished evaluations after each.
    """
    weights = next(model.parameters())
    device = weights.device
    sample = torch.randn(batch_size, *model.image_shape, generator=torch.Generator().manual_seed(0)).to(weights)
    timestep = torch.full((batch_size,), _TIMESTEP, device=device)
    labels = torch.arange(batch_size, device=device) % model.num_classes
    computing: list[list[float]] = [[] for _ in model.units]
    forecasting: list[list[float]] = [[] for _ in model.units]
    elsewhere: list[float] = []

    def timed(unit: int, compute: Callable[[], Tensor]) -> Tensor:
        output, seconds = _timed(compute, device)
        computing[unit].append(seconds)
        forecasting[unit].append(_timed(lambda: weighted_sum([output, output], _FORECAST), device)[1])
        return output

    for evaluation in range(repeats + 1):
        whole = _timed(lambda: model(sample, timestep, labels, timed), device)[1]
        elsewhere.append(whole - sum(times[-1] for times in (*computing, *forecasting)))
        on_evaluation(evaluation)
    saved = [_median(ours) - _median(theirs) for ours, theirs in zip(computing, forecasting, strict=True)]
    return Profile(
        model=model.name,
        device=device_name(device),
        dtype=str(weights.dtype).removeprefix("torch."),
        batch_size=batch_size,
        units={unit.name: max(0.0, seconds) for unit, seconds in zip(model.units, saved, strict=True)},
        shared=max(0.0, _median(elsewhere)) + sum(map(_median, forecasting)),
    )


def device_name(device: torch.device) -> str:
    """Name of the GPU; for a CPU, the number of torch's threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def wait_for(device: torch.device) -> None:
    """Waits until a GPU has finished the work queued on it; returns at once for a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timed(work: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:
    wait_for(device)
    start = time.perf_counter()
    result = work()
    wait_for(device)
    return result, time.perf_counter() - start


def _median(times: list[float]) -> float:
    """The median without the first time, which includes the costs of the first evaluation alone."""
    return statistics.median(times[1:])
