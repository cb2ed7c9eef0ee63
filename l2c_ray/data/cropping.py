"""Centre crops of image files, as ADM and DiT are trained on."""

import io
import warnings

import numpy as np
from PIL import Image

from l2c_ray.data.colours import to_rgb

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""Formats that are opened; PIL's other decoders never see a file from outside."""

_MOST_PIXELS = 89_478_485
"""Pixel limit, at which PIL warns; each takes four bytes, and four more during the conversion of colours."""


def center_crop(content: bytes, size: int) -> np.ndarray:
    """The largest square in the centre of an image, resized: uint8 [size, size, 3].

    The image is halved by averaging as long as both sides are at least twice as large, then resized bicubically until
    its shorter side fits, then cropped: as in ADM's image_datasets.py (arXiv 2105.05233), which DiT took over.

    Raises:
        ValueError: it cannot be read as an image; says why in one line.
    """
    try:
        with warnings.catch_warnings():
            # Warnings about metadata, which is not read, and about size, which is checked here.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are too many")
            return _crop(_shrink(to_rgb(image), size), size)
    except Exception as error:
        # Broken files make PIL raise almost anything: SyntaxError, EOFError, zlib.error.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"cannot be read as an image ({_without_address(reason)})") from error


def _shrink(image: Image.Image, size: int) -> Image.Image:
    """The image resized to a shorter side of `size`."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if width * height > _MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are too long for their width")
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _crop(image: Image.Image, size: int) -> np.ndarray:
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image)[top : top + size, left : left + size].copy()


def _without_address(reason: str) -> str:
    """The reason without the address of PIL's buffer in memory."""
    return reason.partition(" <_io")[0]
