"""Transformers whose units can be computed or replaced one by one, and the unit handlers that decide about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor, nn

from l2c_ray.schedule import ModelIdentity

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

UnitKind = Literal["attention", "mlp"]

NoiseScheduler: TypeAlias = "DDIMScheduler | FlowMatchEulerDiscreteScheduler"
"""Diffusers' record of how noise was added in training; its class tells what the model predicts (noise or velocity)."""

UnitHandler = Callable[[int, Callable[[], Tensor]], Tensor]
"""Decides how unit i gets its output: `handler(i, compute)` calls `compute()` or returns a stand-in of that shape."""


@dataclass(frozen=True)
class Unit:
    """The smallest thing that can be skipped: one branch of one block, before its gate."""

    block: str
    """Name of the block, for instance `blocks.3`."""
    kind: UnitKind

    @property
    def name(self) -> str:
        return f"{self.block}.{self.kind}"


class CacheableTransformer(nn.Module, ABC):
    """A class-conditional diffusion transformer whose branches can be computed or replaced one by one."""

    family: str
    """The architecture, for instance `dit`."""
    name: str
    """The name in the zoo, for instance `digits-dit`."""
    weights_sha256: str | None
    """SHA-256 of the weights file, since a schedule is made for one set of weights; None for random ones."""
    scheduler: NoiseScheduler
    """The noise schedule that the model was trained with."""
    first_timestep: int
    """The model's own time at the scheduler's least noisy training timestep: 0 where time counts from 0, else 1."""
    depth: int
    """Number of blocks."""
    units: tuple[Unit, ...]
    """Units in the order of a forward pass."""
    image_shape: tuple[int, int, int]
    """Channels, height and width of the sample."""
    num_classes: int
    """Labels are 0..num_classes-1."""
    null_label: int
    """The label of the unconditional evaluation."""

    def identity(self) -> ModelIdentity:
        """The record of this model in a schedule."""
        return ModelIdentity(
            name=self.name,
            family=self.family,
            depth=self.depth,
            units=tuple(unit.name for unit in self.units),
            weights_sha256=self.weights_sha256,
        )

    @abstractmethod
    def forward(self, sample: Tensor, timestep: Tensor, labels: Tensor, handler: UnitHandler) -> Tensor:
        """One evaluation of the model.

        Args:
            sample: [batch, *image_shape].
            timestep: [batch], in the model's own time (0..1000).
            labels: [batch].
            handler: called once for every unit, in order.

        Returns:
            [batch, out_channels, height, width]; the first `image_shape[0]` channels are the predicted noise (or
            velocity).
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes transformer/ and scheduler/ in diffusers' layout, with weights in float16; the zoo reads them back.

        The model itself is in float16 afterwards.

        Raises:
            OSError, SafetensorError: the folder cannot be written.
        """


def compute_all(unit: int, compute: Callable[[], Tensor]) -> Tensor:
    """The unit handler of a baseline evaluation."""
    return compute()


def units_of(blocks: list[str]) -> tuple[Unit, ...]:
    """The attention and the MLP branch of every block, in order."""
    return tuple(Unit(block, kind) for block in blocks for kind in ("attention", "mlp"))


def unpatchify(tokens: Tensor, channels: int, patch: int, shape: tuple[int, int]) -> Tensor:
    """Images [batch, channels, *shape] from tokens [batch, rows * columns, patch * patch * channels]."""
    height, width = shape
    grid = tokens.reshape(-1, height // patch, width // patch, patch, patch, channels)
    return torch.einsum("nhwpqc->nchpwq", grid).flatten(4, 5).flatten(2, 3)
