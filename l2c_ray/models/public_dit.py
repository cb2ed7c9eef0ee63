"""The public DiT checkpoints (facebookresearch/DiT) under their authors' tensor names, as diffusers models."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2c_ray.errors import CheckpointError
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.checkpoints import digest, require_tensors
from l2c_ray.models.dit import DiT, load_folder, share_embedder, transformer_class
from l2c_ray.models.published import read_public

_SIZES = {"s": (12, 384, 6), "b": (12, 768, 12), "l": (24, 1024, 16), "xl": (28, 1152, 16)}
"""Depth, width and heads."""

_WHOLE = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
_OF_A_BLOCK = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
_EMBEDDERS = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}
_POSITIONS = "pos_embed"
_PIXELS_A_LATENT = 8
_TIME_FREQUENCIES = 256


@dataclass(frozen=True)
class DiTShape:
    """Everything that the sizes of the tensors follow from, and the number of heads."""

    depth: int
    width: int
    heads: int
    patch_size: int
    image_size: int
    """Side of the latents."""
    channels: int = 4
    num_classes: int = 1000
    learn_sigma: bool = True
    """True if the model predicts a variance beside the noise."""

    @property
    def out_channels(self) -> int:
        return self.channels * (2 if self.learn_sigma else 1)


def shape_of(name: str) -> DiTShape:
    """Shape of an authors' model by its name, as `dit-xl-2-256`: size, patch size, pixels of an image."""
    _, size, patch_size, pixels = name.split("-")
    return DiTShape(*_SIZES[size], int(patch_size), image_size=int(pixels) // _PIXELS_A_LATENT)


def load_as(shape: DiTShape, name: str, path: Path) -> CacheableTransformer:
    """The model of this shape, from a folder of diffusers' layout or a file of the authors'.

    Raises:
        CheckpointError: it cannot be read, or names the first size that is another.
    """
    model = load_folder(name, path) if path.is_dir() else load(shape, name, path)
    config: Any = model.transformer.config
    found = DiTShape(
        depth=config.num_layers,
        width=config.num_attention_heads * config.attention_head_dim,
        heads=config.num_attention_heads,
        patch_size=config.patch_size,
        image_size=config.sample_size,
        channels=config.in_channels,
        num_classes=config.num_embeds_ada_norm,
        learn_sigma=config.out_channels == 2 * config.in_channels,
    )
    for field, wanted in asdict(shape).items():
        if getattr(found, field) != wanted:
            problem = f"is a DiT of {field} {getattr(found, field)}, not {wanted}"
            raise CheckpointError(str(path), problem, f"give the weights of {name}")
    return model


def build(shape: DiTShape, name: str) -> DiT:
    """A model with random weights on torch's default device."""
    from diffusers import DDIMScheduler

    transformer = transformer_class()(
        num_attention_heads=shape.heads,
        attention_head_dim=shape.width // shape.heads,
        in_channels=shape.channels,
        out_channels=shape.out_channels,
        num_layers=shape.depth,
        sample_size=shape.image_size,
        patch_size=shape.patch_size,
        num_embeds_ada_norm=shape.num_classes,
        norm_eps=1e-6,
    )
    # A buffer, which diffusers makes on the CPU whatever the default device.
    transformer.pos_embed.to(torch.get_default_device())
    share_embedder(transformer)
    # DiT's frequencies end one step before 1/10000, diffusers' default ends there.
    transformer.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift = 0
    with torch.device("cpu"):
        scheduler = DDIMScheduler(timestep_spacing="linspace", clip_sample=False)
    return DiT(transformer.eval().requires_grad_(False), scheduler, name, None)


def load(shape: DiTShape, name: str, path: Path) -> DiT:
    """The model in a checkpoint file.

    Raises:
        CheckpointError: the file cannot be read, or holds the tensors of another model.
    """
    sha256 = digest(path)
    model = from_tensors(shape, name, read_public(path), path)
    model.weights_sha256 = sha256
    return model


def from_tensors(shape: DiTShape, name: str, tensors: Mapping[str, Tensor], source: Path) -> DiT:
    """The model of these tensors in the authors' naming; `source` is named in errors.

    Raises:
        CheckpointError: as `require_tensors`.
    """
    require_tensors(_shapes(shape), tensors, source)
    with torch.device("meta"):
        model = build(shape, name)
    model.transformer.load_state_dict(_renamed(shape.depth, tensors), assign=True)
    model.transformer.pos_embed.pos_embed = tensors[_POSITIONS]
    return model


def _shapes(shape: DiTShape) -> dict[str, tuple[int, ...]]:
    """Shapes of the authors' tensors by name."""
    width, patch_pixels = shape.width, shape.patch_size**2
    layers = {
        "t_embedder.mlp.0": (width, _TIME_FREQUENCIES),
        "t_embedder.mlp.2": (width, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
        "final_layer.linear": (patch_pixels * shape.out_channels, width),
    }
    for block in (f"blocks.{index}" for index in range(shape.depth)):
        layers |= {
            f"{block}.adaLN_modulation.1": (6 * width, width),
            f"{block}.attn.qkv": (3 * width, width),
            f"{block}.attn.proj": (width, width),
            f"{block}.mlp.fc1": (4 * width, width),
            f"{block}.mlp.fc2": (width, 4 * width),
        }
    shapes: dict[str, tuple[int, ...]] = {
        _POSITIONS: (1, shape.image_size**2 // patch_pixels, width),
        "x_embedder.proj.weight": (width, shape.channels, shape.patch_size, shape.patch_size),
        "x_embedder.proj.bias": (width,),
        "y_embedder.embedding_table.weight": (shape.num_classes + 1, width),
    }
    for layer, (puts_out, takes_in) in layers.items():
        shapes |= {f"{layer}.weight": (puts_out, takes_in), f"{layer}.bias": (puts_out,)}
    return shapes


def _renamed(depth: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem, _, parameter = name.rpartition(".")
        if stem in _WHOLE:
            renamed[f"{_WHOLE[stem]}.{parameter}"] = tensor
        elif stem in _EMBEDDERS:
            # In diffusers every block names the embedders as its own.
            for block in range(depth):
                renamed[f"transformer_blocks.{block}.norm1.emb.{_EMBEDDERS[stem]}.{parameter}"] = tensor
        elif name != _POSITIONS:
            _, index, layer = stem.split(".", 2)
            renamed |= _renamed_in_block(f"transformer_blocks.{index}", layer, parameter, tensor)
    return renamed


def _renamed_in_block(block: str, layer: str, parameter: str, tensor: Tensor) -> dict[str, Tensor]:
    if layer == "attn.qkv":
        parts = zip(("to_q", "to_k", "to_v"), tensor.chunk(3), strict=True)
        return {f"{block}.attn1.{part}.{parameter}": chunk for part, chunk in parts}
    return {f"{block}.{_OF_A_BLOCK[layer]}.{parameter}": tensor}
