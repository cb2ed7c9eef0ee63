"""Pictures of every mode that Pillow knows become the colours that they show, or are refused."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import given
from mutations import fuzzed, mutated
from picture_files import picture
from PIL import Image, ImageMode

from l2c_ray.data.colours import to_rgb
from l2c_ray.data.cropping import center_crop

GREY = np.array([[0, 60], [128, 255]], np.uint8)
COLOURS = np.array([[[0, 0, 0], [250, 20, 30]], [[30, 200, 60], [255, 255, 255]]], np.uint8)
ALPHA = np.array([[255, 128], [128, 255]], np.uint8)
DEEP = GREY.astype(np.uint16) * 257

GREY_MODES = ("L", "LA", "La")
COLOUR_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "P", "PA")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


def of_mode(mode: str) -> Image.Image:
    """The grey or coloured squares above, as this mode shows them."""
    if mode == "1":
        return Image.fromarray(GREY > 100)
    if mode in DEEP_MODES:
        content = DEEP.astype(ImageMode.getmode(mode).typestr).tobytes()
        return Image.frombytes(mode, (2, 2), content, "raw", mode)
    if mode in GREY_MODES:
        return Image.fromarray(np.dstack([GREY, ALPHA])).convert(mode)
    if mode in ("RGBA", "RGBa"):
        return Image.fromarray(np.dstack([COLOURS, ALPHA])).convert(mode)
    if mode in ("P", "PA"):
        return Image.fromarray(COLOURS).convert("P", palette=Image.Palette.ADAPTIVE).convert(mode)
    return Image.fromarray(COLOURS).convert(mode)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", *GREY_MODES, *COLOUR_MODES, *DEEP_MODES])
def test_every_mode_shows_its_own_colours(mode: str) -> None:
    image = of_mode(mode)
    assert image.mode == mode
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = np.asarray(to_rgb(image)).astype(int)
    expected = np.dstack([GREY] * 3) if mode in (*GREY_MODES, *DEEP_MODES) else COLOURS
    if mode == "1":
        expected = np.dstack([np.where(GREY > 100, 255, 0)] * 3)
    assert shown.shape == (2, 2, 3)
    assert np.abs(shown - expected).max() <= 6


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_range_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=rf"values of 32 bits \(mode {mode}\) have no white"):
        to_rgb(Image.new(mode, (2, 2), 70000))


def test_no_mode_of_pillow_is_left_out() -> None:
    known = {"1", "I", "F", *GREY_MODES, *COLOUR_MODES, *DEEP_MODES}
    assert set(Image.MODES) <= known


def test_grey_of_16_bits_in_a_file_is_scaled_and_not_cut_off() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    cropped = center_crop(saved(Image.fromarray(ramp.astype(np.uint16))), 64)
    assert np.abs(cropped[..., 0] - ramp / 257).max() <= 0.51
    assert (cropped == cropped[..., :1]).all()


def test_inks_of_a_jpeg_by_adobe_are_not_inverted() -> None:
    image = Image.fromarray(COLOURS).resize((32, 32), Image.Resampling.NEAREST)
    content = saved(image.convert("CMYK"), "JPEG", quality=100)
    assert b"Adobe" in content
    shown = center_crop(content, 32)[8::16, 8::16].astype(int)
    assert np.abs(shown - COLOURS).max() <= 12


def test_transparent_palette_shows_its_colours_without_a_warning() -> None:
    image = of_mode("P")
    content = saved(image, transparency=bytes([0, 128, 255, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.abs(center_crop(content, 2).astype(int) - COLOURS).max() <= 4


def test_orientation_is_not_followed_as_in_the_training_of_the_models() -> None:
    turned = Image.Exif()
    turned[0x0112] = 3
    plain = Image.fromarray(COLOURS)
    assert np.array_equal(center_crop(saved(plain, exif=turned), 2), COLOURS)


def test_picture_of_few_bytes_and_too_many_pixels_is_refused_by_its_size() -> None:
    content = saved(Image.new("1", (10_000, 10_000)))
    assert len(content) < 50_000
    with pytest.raises(ValueError, match="10000 x 10000 pixels are too many"):
        center_crop(content, 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_damaged_picture_is_read_or_refused(kind: str) -> None:
    @fuzzed
    @given(mutated(picture(0, kind=kind)))
    def check(content: bytes) -> None:
        try:
            assert center_crop(content, 8).shape == (8, 8, 3)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017

    check()
