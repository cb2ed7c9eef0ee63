"""U-ViT (arXiv 2209.12152): a transformer with long skips, under the names of the authors' public checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2c_ray.models.base import CacheableTransformer, UnitHandler, units_of, unpatchify
from l2c_ray.models.checkpoints import digest, fill, read_config, read_scheduler, require_sizes, unloadable
from l2c_ray.models.layout import CONFIG, WEIGHTS
from l2c_ray.models.published import read_public
from l2c_ray.storage.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

_SIZES = {"s": (12, 512, 8), "m": (16, 768, 12), "l": (20, 1024, 16), "h": (28, 1152, 16)}
"""Depth, width and heads of the authors' models, the middle block not counted."""

_LABEL_AND_TIME = 2
"""Tokens in front of the patches."""


@dataclass(frozen=True)
class UViTShape:
    """Everything that the sizes of the tensors follow from, and the number of heads."""

    depth: int
    """In- and out-blocks; the middle block comes on top."""
    width: int
    heads: int
    image_size: int
    channels: int
    patch_size: int
    num_classes: int
    label_dropout: float = 0.0
    """Share of labels that training replaces by the null label."""

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"a width of {self.width} has no {self.heads} equal heads")
        if self.patch_size < 1 or self.image_size % self.patch_size:
            raise ValueError(f"{self.image_size} pixels are not whole patches of {self.patch_size}")


class UViT(CacheableTransformer):
    """In-blocks, a middle block, and out-blocks, each of which first takes in what its in-block put out."""

    family = "uvit"
    first_timestep = 1

    def __init__(self, shape: UViTShape, scheduler: DDIMScheduler, name: str, weights_sha256: str | None) -> None:
        super().__init__()
        half = shape.depth // 2
        self.shape = shape
        self.scheduler = scheduler
        self.name = name
        self.weights_sha256 = weights_sha256
        self.depth = 2 * half + 1
        self.units = units_of(
            [f"in_blocks.{index}" for index in range(half)]
            + ["mid_block"]
            + [f"out_blocks.{index}" for index in range(half)]
        )
        self.image_shape = (shape.channels, shape.image_size, shape.image_size)
        self.num_classes = shape.num_classes
        self.null_label = shape.num_classes

        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(shape.channels, shape.width, shape.patch_size, stride=shape.patch_size)}
        )
        self.label_emb = nn.Embedding(shape.num_classes + 1, shape.width)
        patches = (shape.image_size // shape.patch_size) ** 2
        self.pos_embed = nn.Parameter(torch.zeros(1, _LABEL_AND_TIME + patches, shape.width))
        self.in_blocks = nn.ModuleList(_Block(shape, long_skip=False) for _ in range(half))
        self.mid_block = _Block(shape, long_skip=False)
        self.out_blocks = nn.ModuleList(_Block(shape, long_skip=True) for _ in range(half))
        self.norm = nn.LayerNorm(shape.width)
        self.decoder_pred = nn.Linear(shape.width, shape.patch_size**2 * shape.channels)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, sample: Tensor, timestep: Tensor, labels: Tensor, handler: UnitHandler) -> Tensor:
        hidden = self._embed(sample, timestep, labels)
        skips = []
        unit = 0
        for block in self.in_blocks:
            hidden = block(hidden, unit, handler)
            skips.append(hidden)
            unit += 2
        hidden = self.mid_block(hidden, unit, handler)
        for block in self.out_blocks:
            unit += 2
            hidden = block(hidden, unit, handler, skips.pop())
        tokens = self.decoder_pred(self.norm(hidden))[:, _LABEL_AND_TIME:]
        channels, *size = self.image_shape
        return unpatchify(tokens, channels, self.shape.patch_size, (size[0], size[1]))

    def save(self, folder: Path) -> None:
        (folder / WEIGHTS).parent.mkdir(parents=True)
        (folder / CONFIG).write_text(json.dumps(asdict(self.shape), indent=2) + "\n")
        write_tensors(folder / WEIGHTS, self.half().state_dict())
        self.scheduler.save_pretrained(folder / "scheduler")

    def _embed(self, sample: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        if self.training:
            dropped = torch.rand(len(labels), device=labels.device) < self.shape.label_dropout
            labels = labels.masked_fill(dropped, self.null_label)
        from diffusers.models.embeddings import get_timestep_embedding

        time = get_timestep_embedding(timestep, self.shape.width, flip_sin_to_cos=True, downscale_freq_shift=0)
        patches = self.patch_embed["proj"](sample).flatten(2).transpose(1, 2)
        front = torch.stack([self.label_emb(labels), time.to(patches.dtype)], dim=1)
        return torch.cat([front, patches], dim=1) + self.pos_embed


class _Block(nn.Module):
    def __init__(self, shape: UViTShape, *, long_skip: bool) -> None:
        super().__init__()
        width = shape.width
        if long_skip:
            self.skip_linear = nn.Linear(2 * width, width)
        self.norm1 = nn.LayerNorm(width)
        self.attn = _Attention(width, shape.heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _Mlp(width)

    def forward(self, hidden: Tensor, unit: int, handler: UnitHandler, skip: Tensor | None = None) -> Tensor:
        """[batch, tokens, width] of the same shape; `unit` is the number of this block's attention."""
        if skip is not None:
            hidden = self.skip_linear(torch.cat([hidden, skip], dim=-1))
        hidden = hidden + handler(unit, partial(self._attend, hidden))
        return hidden + handler(unit + 1, partial(self._transform, hidden))

    def _attend(self, hidden: Tensor) -> Tensor:
        attended: Tensor = self.attn(self.norm1(hidden))
        return attended

    def _transform(self, hidden: Tensor) -> Tensor:
        transformed: Tensor = self.mlp(self.norm2(hidden))
        return transformed


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        batch, tokens, width = hidden.shape
        split = self.qkv(hidden).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(attended.transpose(1, 2).reshape(batch, tokens, width))
        return projected


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        transformed: Tensor = self.fc2(F.gelu(self.fc1(hidden)))
        return transformed


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def public_shape(name: str) -> UViTShape:
    """Shape of an authors' model on latents of 256-pixel images by its name, as `uvit-h-2-256`: size, patch, pixels."""
    depth, width, heads = _SIZES[name.split("-")[1]]
    return UViTShape(depth, width, heads, image_size=32, channels=4, patch_size=2, num_classes=1000)


def build(shape: UViTShape, name: str) -> UViT:
    """A model with random weights on torch's default device."""
    return UViT(shape, noise_scheduler(), name, None)


def noise_scheduler() -> DDIMScheduler:
    """Stable Diffusion's, which the authors train with."""
    from diffusers import DDIMScheduler

    # Whatever device a model is built on, solvers read it.
    with torch.device("cpu"):
        return DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            timestep_spacing="trailing",
            clip_sample=False,
        )


def load_public(shape: UViTShape, name: str, path: Path) -> UViT:
    """The model in a checkpoint file of the authors' (baofff/U-ViT).

    Raises:
        CheckpointError: the file cannot be read, or holds the tensors of another model.
    """
    sha256 = digest(path)
    with torch.device("meta"):
        model = build(shape, name)
    fill(model, read_public(path), path)
    model.weights_sha256 = sha256
    return model


def load_folder(name: str, folder: Path) -> UViT:
    """The model in a folder of diffusers' layout, whose transformer/config.json holds a `UViTShape`.

    Raises:
        CheckpointError: a file is missing, truncated, or holds other tensors than the model has.
    """
    sha256 = digest(folder / WEIGHTS)
    tensors = read_tensors(folder / WEIGHTS)
    require_sizes(folder / CONFIG, tensors)
    with torch.device("meta"):
        model = build_like(folder, name)
    fill(model, tensors, folder / WEIGHTS)
    model.weights_sha256 = sha256
    return model


def build_like(folder: Path, name: str) -> UViT:
    """A model of the sizes that the folder's config.json tells, with random weights."""
    scheduler = read_scheduler(folder)
    try:
        shape = UViTShape(**read_config(folder / CONFIG))
        return UViT(shape, scheduler, name, None)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise unloadable(folder, error) from error
