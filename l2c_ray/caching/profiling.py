"""How long each unit takes on a device, and so what a schedule gives back by reusing it."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from l2c_ray.caching.executor import weighted_sum
from l2c_ray.config.profile import Profile
from l2c_ray.models.base import CacheableTransformer

_FORECAST = (2.0, -1.0)
"""Weights of a forecast of order 1: what a reused unit takes instead of being computed."""
_TIMESTEP = 500.0
"""In the middle; an evaluation takes equally long at every one."""


@torch.inference_mode()
def profile(
    model: CacheableTransformer, batch_size: int, repeats: int, on_evaluation: Callable[[int], None]
) -> Profile:
    """Times the units of whole evaluations, where the model's weights are and in their number format.

    Of each time the median over the evaluations counts, so that a machine that is busy for a moment does not matter.

    Args:
        batch_size: images in one evaluation.
        repeats: evaluations that are timed, after one that is not.
        on_evaluation: told after each of them how many are done.
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
    """Of a GPU its own; of a CPU how many threads torch takes there."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def wait_for(device: torch.device) -> None:
    """A GPU is given its work and goes on by itself."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timed(work: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:
    wait_for(device)
    start = time.perf_counter()
    result = work()
    wait_for(device)
    return result, time.perf_counter() - start


def _median(times: list[float]) -> float:
    """Without the first, which pays for what only the first evaluation needs."""
    return statistics.median(times[1:])
