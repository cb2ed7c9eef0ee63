"""Multiply-accumulates of a model's units, counted from the operations it calls."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from l2c_ray.models.base import CacheableTransformer
from l2c_ray.schedule import Cost, Macs, Mask

_ATTENTION = {torch.ops.aten.bmm, torch.ops.aten.baddbmm}
"""The two products inside attention; layers call other operations."""


@dataclass(frozen=True)
class UnitMacs:
    """Multiply-accumulates of one evaluation of one image."""

    units: tuple[int, ...]
    """Multiply-accumulates of each unit."""
    shared: int
    """Multiply-accumulates that no schedule can skip: embeddings, gates, the output layer."""

    def of(self, mask: Mask) -> Macs:
        """Cost of a trajectory under `mask` [steps][units], one evaluation per step; guidance would double both."""
        computed = sum(macs for row in mask for macs, bit in zip(self.units, row, strict=True) if bit)
        return Macs(
            full=len(mask) * (self.shared + sum(self.units)),
            cached=len(mask) * self.shared + computed,
        )


@dataclass(frozen=True)
class ModelMacs:
    """Both counts of one evaluation that a schedule records."""

    layers: UnitMacs
    with_attention: UnitMacs

    def cost(self, mask: Mask) -> Cost:
        """Both counts of a trajectory under `mask` [steps][units]."""
        return Cost(layers=self.layers.of(mask), with_attention=self.with_attention.of(mask))


@torch.no_grad()
def count_macs(model: CacheableTransformer) -> ModelMacs:
    """Counts one evaluation of one image: linear and convolution layers, with and without the products in attention.

    The model may be on the meta device.
    """
    weights = next(model.parameters())
    sample = torch.zeros(1, *model.image_shape, dtype=weights.dtype, device=weights.device)
    zero = torch.zeros(1, device=weights.device)
    of_units: list[Counter[str]] = []

    def handle(unit: int, compute: Callable[[], Tensor]) -> Tensor:
        with FlopCounterMode(display=False) as counter:
            output = compute()
        of_units.append(_by_count(counter))
        return output

    # Only the plain kernel's two products are known to the counter on every device.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(sample, zero, zero.long(), handle)
    total = _by_count(counter)

    def macs(count: str) -> UnitMacs:
        units = tuple(of_unit[count] for of_unit in of_units)
        return UnitMacs(units, total[count] - sum(units))

    return ModelMacs(layers=macs("layers"), with_attention=macs("with_attention"))


def _by_count(counter: FlopCounterMode) -> Counter[str]:
    counts: Counter[str] = Counter()
    for operation, flops in counter.get_flop_counts()["Global"].items():
        # The counter counts multiplications and additions separately.
        counts["with_attention"] += flops // 2
        if operation not in _ATTENTION:
            counts["layers"] += flops // 2
    return counts
