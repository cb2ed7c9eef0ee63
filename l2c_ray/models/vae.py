"""The autoencoder that makes pixels of latents: diffusers' AutoencoderKL (arXiv 2112.10752) from a local folder."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from l2c_ray.models.checkpoints import WEIGHTS, digest, read_module


class LatentDecoder:
    """The second half of the autoencoder, frozen and in float32."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Loads a folder with config.json and the weights in one file.

        Raises:
            CheckpointError: a file is missing or broken, or holds other tensors than its config.json says.
        """
        self.sha256 = digest(folder / WEIGHTS.name)
        self._autoencoder = read_module(AutoencoderKL, folder).float().requires_grad_(False).eval().to(device)
        self._device = device
        self.channels: int = self._autoencoder.config.latent_channels
        """Of the latents."""

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Images [n, 3, f x height, f x width] in about [-1, 1], on the CPU, of latents [n, channels, height, width].

        Latents are scaled as the config says: by 0.18215 for Stable Diffusion's, on which DiT and U-ViT are trained.
        """
        config = self._autoencoder.config
        plain = latents.to(self._device) / config.scaling_factor + (config.shift_factor or 0.0)
        images: Tensor = self._autoencoder.decode(plain).sample
        return images.cpu()
