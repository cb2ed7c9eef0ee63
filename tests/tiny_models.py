"""Frozen models of a few thousand random weights, always the same ones, for 4x4 images."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel
from torch import nn

from l2c_ray.models import uvit
from l2c_ray.models.dit import DiT
from l2c_ray.models.uvit import UViT, UViTShape

UVIT_SHAPE = UViTShape(depth=2, width=8, heads=2, image_size=4, channels=1, patch_size=2, num_classes=3)


def tiny_dit(*, depth: int = 2, channels: int = 1, out_channels: int | None = None, classes: int = 3) -> DiT:
    """A model of width 8."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=channels,
        out_channels=out_channels,
        num_layers=depth,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=classes,
        norm_eps=1e-6,
    )
    scheduler = DDIMScheduler(timestep_spacing="linspace", clip_sample=False)
    return DiT(transformer, scheduler, "tiny", "b" * 64).requires_grad_(False).eval()


def tiny_uvit(shape: UViTShape = UVIT_SHAPE) -> UViT:
    """Whose every weight, also those that begin as 0 or 1, makes a difference."""
    torch.manual_seed(0)
    model = uvit.build(shape, "tiny")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.weights_sha256 = "c" * 64
    return model.requires_grad_(False).eval()


def save_tiny_autoencoder(folder: Path, channels: int = 4, in_channels: int = 3) -> Path:
    """The folder, with an autoencoder that makes two pixels in each direction of one latent."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
        "latent_channels": channels,
        "in_channels": in_channels,
    }
    AutoencoderKL(**blocks, **sizes).save_pretrained(folder)
    return folder
