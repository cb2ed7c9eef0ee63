"""Conversion of images of any Pillow mode to RGB."""

import numpy as np
from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB; 16-bit grey is scaled to 8 bits.

    Transparency is dropped and an orientation in the EXIF data is ignored, as in ADM's image_datasets.py (arXiv
    2105.05233), with which the supported models were trained.

    Raises:
        ValueError: the mode has no defined white (32-bit values).
    """
    # Pillow would warn that a palette's transparency is lost.
    image.info.pop("transparency", None)
    if image.mode.startswith("I;16"):
        return Image.fromarray(_scaled(np.asarray(image))).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"values of 32 bits (mode {image.mode}) have no white")
    opaque = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    return (image.convert(opaque) if opaque else image).convert("RGB")


def _scaled(grey: np.ndarray) -> np.ndarray:
    """uint8 [height, width] from uint16, rounded to nearest."""
    return ((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)
