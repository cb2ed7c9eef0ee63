"""A picture of any mode of Pillow's in red, green and blue."""

import numpy as np
from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB. Grey of 16 bits is scaled to 8.

    Transparency is left out and shows the colours beneath it, and an orientation in the EXIF data is not followed: as
    in ADM's image_datasets.py, by which the models were trained that learn from this.

    Raises:
        ValueError: its values have no range, so that nobody knows which of them is white.
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
    """From uint16 to uint8."""
    return ((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)
