"""What every cacheable transformer offers: a list of units, and a forward pass that hands each of them to a branch."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from diffusers import DDIMScheduler
from torch import Tensor, nn

from l2c_ray.schedule import ModelIdentity

UnitKind = Literal["attention", "mlp"]

Branch = Callable[[int, Callable[[], Tensor]], Tensor]
"""Decides how unit i gets its output: `branch(i, compute)` calls `compute()` or returns a stand-in of that shape."""


@dataclass(frozen=True)
class Unit:
    """The smallest thing that can be skipped: one branch of one block, before its gate."""

    block: int
    kind: UnitKind

    @property
    def name(self) -> str:
        return f"blocks.{self.block}.{self.kind}"


class CacheableTransformer(nn.Module, ABC):
    """A class-conditional diffusion transformer whose branches can be computed or replaced one by one."""

    family: str
    """The architecture, for instance `dit`."""
    name: str
    """The name in the zoo, for instance `digits-dit`."""
    weights_sha256: str
    """Of the weights file: a schedule is made for one set of weights."""
    scheduler: DDIMScheduler
    """The noise schedule that the model was trained with."""
    depth: int
    """Number of blocks."""
    units: tuple[Unit, ...]
    """In the order in which a forward pass meets them."""
    image_shape: tuple[int, int, int]
    """Channels, height and width of the sample."""
    num_classes: int
    """Labels are 0..num_classes-1."""
    null_label: int
    """The label of the unconditional evaluation."""

    def identity(self) -> ModelIdentity:
        """How a schedule names this model."""
        return ModelIdentity(
            name=self.name,
            family=self.family,
            depth=self.depth,
            units=tuple(unit.name for unit in self.units),
            weights_sha256=self.weights_sha256,
        )

    @abstractmethod
    def forward(self, sample: Tensor, timestep: Tensor, labels: Tensor, branch: Branch) -> Tensor:
        """One evaluation of the model.

        Args:
            sample: [batch, *image_shape].
            timestep: [batch], in the model's own time (0..1000).
            labels: [batch].
            branch: asked once for every unit, in order.

        Returns:
            [batch, out_channels, height, width]; the first `image_shape[0]` channels are the predicted noise.
        """


def compute_all(unit: int, compute: Callable[[], Tensor]) -> Tensor:
    """The branch of a full evaluation."""
    return compute()
