"""Pictures of samples: pixels as they are, latents decoded by their autoencoder."""

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from l2c_ray.errors import ConfigError
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.vae import LatentDecoder

_CHANNELS_OF_PIXELS = (1, 3)
_BATCH = 8
"""Latents decoded at a time: pixels and the activations of an autoencoder take far more memory than latents."""


def are_pixels(image_shape: tuple[int, int, int]) -> bool:
    """Whether samples of this shape are grey or coloured pictures, and no latents."""
    return image_shape[0] in _CHANNELS_OF_PIXELS


class Pictures:
    """Decoder of a model's samples to pictures."""

    def __init__(self, model: CacheableTransformer, vae: Path | None, key: str, device: str = "cpu") -> None:
        """Loads the autoencoder, if one is given.

        Args:
            vae: a folder with diffusers' AutoencoderKL; None for a model of pixels.
            key: where `vae` is given, for errors.

        Raises:
            ConfigError: the model makes latents and there is no autoencoder, or one of other latents.
            CheckpointError: a file of the autoencoder is missing or broken.
        """
        channels = model.image_shape[0]
        if vae is None and not are_pixels(model.image_shape):
            problem = f"is missing, and {model.name} makes latents of {channels} channels"
            raise ConfigError(key, problem, "give the folder of its AutoencoderKL")
        self._latents = model.image_shape
        self._decoder = LatentDecoder(vae, device) if vae else None
        if self._decoder and self._decoder.channels != channels:
            problem = f"decodes latents of {self._decoder.channels} channels, and {model.name} makes {channels}"
            raise ConfigError(key, problem, f"give the autoencoder that {model.name} was trained on, or none")

    @property
    def vae_sha256(self) -> str | None:
        """Hash of the autoencoder's weights, or None without one."""
        return self._decoder.sha256 if self._decoder else None

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a picture, found by making one."""
        channels, height, width = self.of(torch.zeros(1, *self._latents)).shape[1:]
        return channels, height, width

    def of(self, samples: Tensor) -> Tensor:
        """The pictures [n, 1 or 3, height, width], in about [-1, 1]."""
        if self._decoder is None:
            return samples
        return torch.cat([self._decoder.decode(some) for some in samples.split(_BATCH)])
