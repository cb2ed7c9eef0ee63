"""From images to shards of latents in this process: what is in them, what is left out, and what is refused."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from latent_factories import SHAPE, latent_settings
from picture_files import picture, write_folder
from tiny_models import save_tiny_autoencoder

from l2c_ray.config.encoding import EncodingConfig
from l2c_ray.data import latent_shards, preparing
from l2c_ray.data.cropping import center_crop
from l2c_ray.data.latent_shards import Shard, open_shards, prepare_store
from l2c_ray.data.preparing import Gatherer, Row
from l2c_ray.data.settings_file import SETTINGS
from l2c_ray.data.sources.opening import open_source
from l2c_ray.errors import ConfigError, EncodingError, StorageError
from l2c_ray.models.vae import LatentEncoder
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_store


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "images", {"cat": 5, "dog": 6})


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "latents"))


def encoding_config(tmp_path: Path, **latents: Any) -> EncodingConfig:
    """Eleven images of two classes, in shards of four."""
    given = {"storage": str(tmp_path / "latents"), "vae": str(tmp_path / "vae"), "image_size": 8, "shard_size": 4}
    source = {"images": str(tmp_path / "images"), "classes": 2}
    return EncodingConfig.parse({"source": source, "latents": given | latents}, source="test")


def rows(config: EncodingConfig) -> list[Row]:
    source = open_source(config)
    return [row for part in source.parts() for row in preparing.rows_of(source, part, config.latents)]


def latent(row: Row) -> Row:
    """The row with a latent that tells the image."""
    return row | {"latent": np.full(SHAPE, row["pixels"].mean(), np.float16)}


def gathered(config: EncodingConfig, given: list[Row]) -> dict[Shard, bytes]:
    gatherer = Gatherer(config.latents)
    return dict(finished for row in given if (finished := gatherer.add(latent(row))))


def content(count: int = 2, labels: list[int] | None = None, value: float = 1.0) -> bytes:
    names = [str(number) for number in range(count)]
    return latent_shards.encode(np.full((count, *SHAPE), value, np.float16), labels or [0] * count, names, [])


@pytest.mark.usefixtures("images")
def test_images_are_cropped_and_half_of_them_mirrored(tmp_path: Path) -> None:
    plain = {row["name"]: row["pixels"] for row in rows(encoding_config(tmp_path, mirrored=False))}
    for name, pixels in plain.items():
        assert np.array_equal(pixels, center_crop((tmp_path / "images" / name).read_bytes(), 8))
    mirrored = {row["name"]: row["pixels"] for row in rows(encoding_config(tmp_path))}
    turned = {name for name, pixels in mirrored.items() if not np.array_equal(pixels, plain[name])}
    assert 0 < len(turned) < len(plain)
    assert all(np.array_equal(mirrored[name], plain[name][:, ::-1]) for name in turned)


def test_noise_of_an_image_depends_on_its_name_and_the_seed_alone() -> None:
    together = preparing.noise_of(["a", "b", "c"], 0, SHAPE)
    assert torch.equal(together[1:2], preparing.noise_of(["b"], 0, SHAPE))
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together, preparing.noise_of(["a", "b", "c"], 1, SHAPE))


def test_latent_is_a_scaled_sample_of_the_posterior(tmp_path: Path) -> None:
    folder = save_tiny_autoencoder(tmp_path / "vae")
    images = preparing.to_images(np.stack([center_crop(picture(seed), 8) for seed in range(3)]))
    assert images.min() >= -1
    assert images.max() <= 1
    noise = preparing.noise_of(["a", "b", "c"], 0, SHAPE)
    encoder = LatentEncoder(folder)
    assert (encoder.channels, encoder.pixel_channels, encoder.factor) == (4, 3, 2)
    with torch.no_grad():
        posterior = AutoencoderKL.from_pretrained(folder).encode(images).latent_dist
    expected = (posterior.mean + posterior.std * noise) * 0.18215
    torch.testing.assert_close(encoder.encode(images, noise), expected)
    assert posterior.std.min() > 0


@pytest.mark.usefixtures("images")
def test_shards_are_put_together_in_whatever_order_the_latents_come(tmp_path: Path) -> None:
    config = encoding_config(tmp_path)
    given = rows(config)
    in_order = gathered(config, given)
    assert [(shard.number, shard.images) for shard in in_order] == [(0, 4), (1, 4), (2, 3)]
    random.Random(0).shuffle(given)
    assert gathered(config, given) == in_order


@pytest.mark.usefixtures("images")
def test_shard_holds_the_latents_and_labels_of_its_images(tmp_path: Path, store: ObjectStore) -> None:
    config = encoding_config(tmp_path)
    given = [row for row in rows(config) if row["shard"] == 1]
    ((shard, written),) = gathered(config, given).items()
    store.put(shard.name, written)
    read = latent_shards.read(store, shard, latent_settings())
    assert read.images.shape == (4, *SHAPE)
    assert read.images.dtype == torch.float16
    assert read.labels.tolist() == [row["label"] for row in given]
    for image, row in zip(read.images, given, strict=True):
        assert torch.equal(image, torch.from_numpy(latent(row)["latent"]))


def test_broken_image_ends_it_or_is_left_out(tmp_path: Path, images: Path) -> None:
    (images / "cat" / "1.png").write_bytes(b"no picture")
    config = encoding_config(tmp_path)
    given = rows(config)
    with pytest.raises(StorageError, match=r"^cat/1.png: cannot be read as an image .*skip_broken=true$"):
        gathered(config, given)
    gatherer = Gatherer(encoding_config(tmp_path, skip_broken=True).latents)
    finished = [shard for row in given if (shard := gatherer.add(latent(row)))]
    assert sum(shard.images for shard, _ in finished) == 10
    assert gatherer.skipped == ["cat/1.png"]
    assert b'["cat/1.png"]' in b"".join(written for _, written in finished)


def test_shard_of_broken_images_alone_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", {"cat": 1, "dog": 1})
    (tmp_path / "images" / "cat" / "0.png").write_bytes(b"no picture")
    config = encoding_config(tmp_path, skip_broken=True, shard_size=1)
    with pytest.raises(StorageError, match=r"^cat/0.png: and all others of shard \d are broken"):
        gathered(config, rows(config))


@pytest.mark.usefixtures("images")
def test_latent_that_is_not_finite_is_refused_naming_its_image(tmp_path: Path) -> None:
    config = encoding_config(tmp_path)
    row = rows(config)[0]
    with pytest.raises(EncodingError, match=rf"^{row['name']}: has a latent that is no finite number"):
        Gatherer(config.latents).add(row | {"latent": np.full(SHAPE, np.inf, np.float16)})


def test_shards_that_are_there_are_told_and_other_settings_refused(store: ObjectStore) -> None:
    assert prepare_store(store, latent_settings()) == []
    assert prepare_store(store, latent_settings(seed=1)) == []
    prepare_store(store, latent_settings())
    store.put(Shard(1, 2).name, content())
    assert prepare_store(store, latent_settings()) == [Shard(1, 2)]
    for name, value in {"seed": 1, "source_sha256": "c" * 64, "vae_sha256": "c" * 64, "mirrored": False}.items():
        with pytest.raises(ConfigError) as caught:
            prepare_store(store, latent_settings(**{name: value}))
        assert caught.value.subject == f"{name} in {store.address}/{SETTINGS}"


def test_place_without_all_its_shards_is_refused(store: ObjectStore) -> None:
    with pytest.raises(StorageError, match="has no latents: there is no settings.json"):
        open_shards(store)
    prepare_store(store, latent_settings())
    store.put(Shard(1, 2).name, content())
    with pytest.raises(StorageError, match="lacks 1 of 2 shards; encode into it again"):
        open_shards(store)
    store.put(Shard(0, 3).name, content(3))
    assert open_shards(store) == (latent_settings(), [Shard(0, 3), Shard(1, 2)])
    store.put(Shard(0, 4).name, content(4))
    with pytest.raises(StorageError, match="has 3 shards, not 2"):
        open_shards(store)


@pytest.mark.parametrize(
    "damaged",
    [b"", content()[:-30], content(3), content(labels=[0, 3]), content(labels=[0, -1]), content(value=np.nan)],
    ids=["empty", "half", "another number", "label too high", "label too low", "not finite"],
)
def test_damaged_shard_is_refused_naming_it(store: ObjectStore, damaged: bytes) -> None:
    shard = Shard(0, 2)
    store.put(shard.name, damaged)
    with pytest.raises(StorageError, match=rf"/{shard.name}: is no shard of these latents"):
        latent_shards.read(store, shard, latent_settings())
    with pytest.raises(StorageError, match=r"latents-000001-2.parquet: is not there"):
        latent_shards.read(store, Shard(1, 2), latent_settings())


def test_shard_of_another_shape_is_refused(store: ObjectStore) -> None:
    store.put(Shard(0, 2).name, content())
    with pytest.raises(StorageError, match="is no shard of these latents"):
        latent_shards.read(store, Shard(0, 2), latent_settings(size=2))
