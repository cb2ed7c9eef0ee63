"""The forward passes of the families as their papers state them, without units: what the full pass is held to."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_ray.models.dit import DiT
from l2c_ray.models.uvit import UViT


def plain_dit(model: DiT, sample: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
    """Diffusers' own forward pass over the same weights."""
    predicted: Tensor = model.transformer(sample, timestep=timestep, class_labels=labels).sample
    return predicted


def plain_uvit(model: UViT, sample: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
    """U-ViT (arXiv 2209.12152, section 3) over the model's tensors."""
    weights, shape = model.state_dict(), model.shape
    hidden = _tokens(weights, shape.width, shape.patch_size, sample, timestep, labels)
    skips = []
    for index in range(shape.depth // 2):
        hidden = _block(weights, f"in_blocks.{index}", shape.heads, hidden)
        skips.append(hidden)
    hidden = _block(weights, "mid_block", shape.heads, hidden)
    for index in range(shape.depth // 2):
        joined = torch.cat([hidden, skips[-1 - index]], dim=2)
        hidden = _block(
            weights, f"out_blocks.{index}", shape.heads, _linear(weights, f"out_blocks.{index}.skip_linear", joined)
        )
    patches = _linear(weights, "decoder_pred", _norm(weights, "norm", hidden))[:, 2:]
    batch, channels, height, width = sample.shape
    size = shape.patch_size
    grid = patches.view(batch, height // size, width // size, size, size, channels)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, height, width)


def _tokens(
    weights: Mapping[str, Tensor], width: int, size: int, sample: Tensor, timestep: Tensor, labels: Tensor
) -> Tensor:
    kernel, bias = weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"]
    patches = F.unfold(sample, size, stride=size).transpose(1, 2) @ kernel.flatten(1).T + bias
    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
    angles = timestep[:, None] * frequencies
    time = torch.cat([angles.cos(), angles.sin()], dim=1)
    label = weights["label_emb.weight"][labels]
    return torch.cat([label[:, None], time[:, None], patches], dim=1) + weights["pos_embed"]


def _block(weights: Mapping[str, Tensor], name: str, heads: int, hidden: Tensor) -> Tensor:
    normed = _norm(weights, f"{name}.norm1", hidden)
    query, key, value = (normed @ weights[f"{name}.attn.qkv.weight"].T).chunk(3, dim=2)
    attended = []
    for q, k, v in zip(*(part.chunk(heads, dim=2) for part in (query, key, value)), strict=True):
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[2])
        attended.append(scores.softmax(dim=2) @ v)
    hidden = hidden + _linear(weights, f"{name}.attn.proj", torch.cat(attended, dim=2))
    inner = F.gelu(_linear(weights, f"{name}.mlp.fc1", _norm(weights, f"{name}.norm2", hidden)))
    return hidden + _linear(weights, f"{name}.mlp.fc2", inner)


def _linear(weights: Mapping[str, Tensor], name: str, hidden: Tensor) -> Tensor:
    return hidden @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(weights: Mapping[str, Tensor], name: str, hidden: Tensor) -> Tensor:
    centred = hidden - hidden.mean(dim=2, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(dim=2, keepdim=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]
