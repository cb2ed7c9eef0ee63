"""What a schedule costs in multiply-accumulates, counted from the operations that the model really calls."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.errors import ScheduleError
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.schedule import Cost, Mask, Provenance, Schedule


@dataclass(frozen=True)
class ModelMacs:
    """Multiply-accumulates of one evaluation of one image."""

    units: tuple[int, ...]
    """Of each unit."""
    shared: int
    """Of everything that no schedule can skip: embeddings, modulations, the output layer."""

    def cost(self, mask: Mask) -> Cost:
        """Of a trajectory under `mask` [steps][units], at one evaluation a step: guidance doubles both alike."""
        computed = sum(macs for row in mask for macs, bit in zip(self.units, row, strict=True) if bit)
        return Cost(
            count="layers+attention",
            full=len(mask) * (self.shared + sum(self.units)),
            cached=len(mask) * self.shared + computed,
        )


@torch.no_grad()
def count_macs(model: CacheableTransformer) -> ModelMacs:
    """Counts one evaluation of one image: linear and convolution layers and the two products inside attention."""
    device = next(model.parameters()).device
    sample = torch.zeros(1, *model.image_shape, device=device)
    zero = torch.zeros(1, device=device)
    flops: list[int] = []

    def branch(unit: int, compute: Callable[[], Tensor]) -> Tensor:
        with FlopCounterMode(display=False) as counter:
            output = compute()
        flops.append(counter.get_total_flops())
        return output

    # Only the plain kernel's two products are known to the counter on every device.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as total:
        model(sample, zero, zero.long(), branch)
    # The counter counts a multiplication and an addition apart.
    units = tuple(count // 2 for count in flops)
    return ModelMacs(units, total.get_total_flops() // 2 - sum(units))


def make_schedule(pipeline: Pipeline, mask: Mask, provenance: Provenance) -> Schedule:
    """The schedule of a mask for this model and sampler, with its cost counted."""
    model, solver = pipeline.model, pipeline.solver
    cost = count_macs(model).cost(mask)
    return Schedule.create(model.identity(), solver.identity(pipeline.guidance_scale), mask, provenance, cost)


def require_fit(schedule: Schedule, pipeline: Pipeline) -> None:
    """Refuses a schedule that was not made for this model and sampler, or that costs something else than it says.

    Raises:
        ScheduleError: names the first field that differs.
    """
    model = pipeline.model
    schedule.require(model.identity(), pipeline.solver.identity(pipeline.guidance_scale))
    counted = count_macs(model).cost(schedule.compute)
    for name in ("full", "cached"):
        said, found = getattr(schedule.cost, name), getattr(counted, name)
        if said != found:
            raise ScheduleError(
                f"cost.{name}",
                f"the schedule says {said}, but on {model.name} it is {found}",
                "use a schedule learned for this model",
            )
