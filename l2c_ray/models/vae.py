"""The autoencoder between pixels and latents: diffusers' AutoencoderKL (arXiv 2112.10752) from a local folder."""

from pathlib import Path

import torch
from torch import Tensor

from l2c_ray.models.checkpoints import digest, read_module
from l2c_ray.models.layout import WEIGHTS


class _Autoencoder:
    """Base of encoder and decoder, frozen and in float32."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Loads a folder with config.json and the weights in one file.

        Raises:
            CheckpointError: a file is missing or broken, or holds other tensors than its config.json says.
        """
        from diffusers import AutoencoderKL

        self.sha256 = digest(folder / WEIGHTS.name)
        self._autoencoder = read_module(AutoencoderKL, folder).float().requires_grad_(False).eval().to(device)
        self._device = device
        config = self._autoencoder.config
        self.channels: int = config.latent_channels
        """Channels of the latents."""
        self.scaling_factor: float = config.scaling_factor
        """Factor on the latents: 0.18215 for Stable Diffusion, on which DiT and U-ViT are trained."""
        self.shift_factor: float = config.shift_factor or 0.0
        """Offset subtracted from the latents before scaling; 0 for Stable Diffusion."""


class LatentDecoder(_Autoencoder):
    """From latents to pixels."""

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Images [n, 3, f x height, f x width] in about [-1, 1], on the CPU, of latents [n, channels, height, width].

        Latents are scaled as the config says.
        """
        plain = latents.to(self._device) / self.scaling_factor + self.shift_factor
        images: Tensor = self._autoencoder.decode(plain).sample
        return images.cpu()


class LatentEncoder(_Autoencoder):
    """From pixels to latents."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Loads the encoder; raises as its base does."""
        super().__init__(folder, device)
        config = self._autoencoder.config
        self.pixel_channels: int = config.in_channels
        self.factor: int = 2 ** (len(config.block_out_channels) - 1)
        """Downsampling factor: pixels per latent in each direction."""

    @torch.inference_mode()
    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """Latents [n, channels, height, width], on the CPU: each a sample of the posterior, scaled as the config says.

        A sample and not the mean, since that is what the models were trained on and what the paper's authors learn
        their routers from.

        Args:
            images: [n, 3, factor x height, factor x width] in [-1, 1].
            noise: of the latents' shape, standard normal; what is drawn of the posterior depends on it alone.
        """
        posterior = self._autoencoder.encode(images.to(self._device)).latent_dist
        sample: Tensor = posterior.mean + posterior.std * noise.to(self._device)
        return ((sample - self.shift_factor) * self.scaling_factor).cpu()
