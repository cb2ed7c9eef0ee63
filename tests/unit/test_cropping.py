"""The square in the centre of a picture, and files that are no picture."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_files import picture
from PIL import Image

from l2c_ray.data.cropping import center_crop


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def stripes(width: int, height: int) -> Image.Image:
    """Red counts the columns and green the rows."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8))


@pytest.mark.parametrize(
    ("width", "height", "left", "top"), [(8, 8, 0, 0), (15, 8, 3, 0), (8, 15, 0, 3), (14, 8, 3, 0)]
)
def test_picture_whose_shorter_side_fits_is_only_cropped(width: int, height: int, left: int, top: int) -> None:
    image = stripes(width, height)
    expected = np.asarray(image)[top : top + 8, left : left + 8]
    assert np.array_equal(center_crop(saved(image), 8), expected)


def test_large_picture_is_halved_by_averaging_before_it_is_resized() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    blocks = np.asarray(image).reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    # Each of the two halvings rounds up in each direction.
    assert np.abs(center_crop(saved(image), 8).astype(float) - blocks).max() <= 2
    by_halves = image.resize((16, 16), Image.Resampling.BOX).resize((12, 12), Image.Resampling.BICUBIC)
    assert np.array_equal(center_crop(saved(image), 12), np.asarray(by_halves))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 24))
def test_any_picture_fills_the_square(width: int, height: int, size: int) -> None:
    cropped = center_crop(picture(0, width, height), size)
    assert cropped.shape == (size, size, 3)
    assert cropped.dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"])
def test_pictures_without_three_colours_get_them(mode: str) -> None:
    image = stripes(8, 8).convert("L").convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert center_crop(saved(image, kind), 8).shape == (8, 8, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_files_of_the_usual_kinds_are_read(kind: str) -> None:
    plain = center_crop(picture(3), 8).astype(float)
    assert np.abs(center_crop(picture(3, kind=kind), 8).astype(float) - plain).mean() < 12


@pytest.mark.parametrize(
    "content",
    [b"", b"no picture", picture(0)[:60], picture(0, kind="JPEG")[:300], saved(stripes(8, 8), "TIFF")],
    ids=["empty", "text", "half a PNG", "half a JPEG", "TIFF"],
)
def test_what_is_no_whole_picture_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^cannot be read as an image \([^\n<]+\)$"):
        center_crop(content, 8)


def test_picture_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="too long for their width"):
        center_crop(saved(Image.new("RGB", (30000, 1))), 256)
