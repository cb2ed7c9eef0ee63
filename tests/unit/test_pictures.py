"""Samples become pictures: pixels as they are, latents decoded or not at all."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_models import save_tiny_autoencoder, tiny_dit
from unit_factories import L2C, Refused

from l2c_ray.caching.pictures import Pictures
from l2c_ray.caching.pipeline import Pipeline, encode_png, to_pixels
from l2c_ray.errors import ConfigError
from l2c_ray.models.vae import LatentDecoder


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_shown_as_they_are(channels: int) -> None:
    pictures = Pictures(tiny_dit(channels=channels), None, "vae")
    samples = torch.linspace(-1, 1, 2 * channels * 16).reshape(2, channels, 4, 4)
    assert torch.equal(pictures.of(samples), samples)
    assert pictures.shape == (channels, 4, 4)
    opened = Image.open(io.BytesIO(encode_png(samples[0])))
    assert (opened.mode, opened.size) == ({1: "L", 3: "RGB"}[channels], (4, 4))
    assert opened.tobytes() == to_pixels(samples[0]).permute(1, 2, 0).numpy().tobytes()


def test_latents_are_decoded_each_for_itself(tmp_path: Path) -> None:
    vae = save_tiny_autoencoder(tmp_path)
    pictures = Pictures(tiny_dit(channels=4), vae, "vae")
    latents = torch.randn(19, 4, 4, 4, generator=torch.manual_seed(0))
    torch.testing.assert_close(pictures.of(latents), LatentDecoder(vae).decode(latents))
    assert pictures.shape == (3, 8, 8)


@pytest.mark.parametrize("channels", [2, 4, 16])
def test_latents_that_nothing_decodes_are_refused(channels: int) -> None:
    with pytest.raises(ConfigError, match=f"vae: is missing, and tiny makes latents of {channels} channels"):
        Pictures(tiny_dit(channels=channels), None, "vae")


@pytest.mark.usefixtures("latents")
def test_l2c_generate_decodes_latents_or_refuses_them(l2c: L2C, refused: Refused, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    command = ["generate", "tiny", "--checkpoint", tmp_path, "--label", 1, "--steps", 4, "--out", out]
    assert refused(*command).startswith("error: --vae: is missing, and tiny makes latents of 4 channels")
    assert not out.exists()
    assert l2c(*command, "--vae", save_tiny_autoencoder(tmp_path / "vae")).code == 0
    opened = Image.open(out)
    assert (opened.mode, opened.size) == ("RGB", (8, 8))


def test_image_of_a_batch_is_that_of_itself_alone(latents: Pipeline, tmp_path: Path) -> None:
    pictures = Pictures(latents.model, save_tiny_autoencoder(tmp_path), "vae")
    together = pictures.of(latents.generate([1, 2, 1], [5, 6, 7]))
    torch.testing.assert_close(together[1:2], pictures.of(latents.generate([2], [6])))
