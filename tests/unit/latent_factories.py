"""How small latents were made."""

from typing import Any

from l2c_ray.config.encoding import LatentSettings

SHAPE = (4, 4, 4)


def latent_settings(**changes: Any) -> LatentSettings:
    """Settings of two shards of latents of `SHAPE` in three classes."""
    fields = {
        "shards": 2,
        "channels": 4,
        "size": 4,
        "classes": 3,
        "image_size": 8,
        "mirrored": True,
        "seed": 0,
        "source_sha256": "a" * 64,
        "vae_sha256": "b" * 64,
        "scaling_factor": 0.18215,
        "shift_factor": 0.0,
    }
    return LatentSettings(**(fields | changes))
