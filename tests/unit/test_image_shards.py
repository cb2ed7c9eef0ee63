"""Shards of generated images, made in this process: what is in them, and which are made again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from tiny_models import save_tiny_autoencoder, tiny_dit
from torch import Tensor
from unit_factories import Refused

from l2c_ray.caching.pipeline import to_pixels
from l2c_ray.config.imagenet import GenerationConfig
from l2c_ray.data.settings_file import SETTINGS
from l2c_ray.errors import CheckpointError, ConfigError, ScheduleError, StorageError
from l2c_ray.evaluation.imagenet.making import ShardMaker
from l2c_ray.evaluation.imagenet.shards import ImageShards, prepare_store, shard_name
from l2c_ray.models.vae import LatentDecoder
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_store


def generation_config(tmp_path: Path, **sections: dict[str, Any]) -> GenerationConfig:
    """Seven digits by two steps, in shards of three."""
    values: dict[str, dict[str, Any]] = {
        "model": {"name": "digits-dit"},
        "sampler": {"steps": 2},
        "images": {"storage": str(tmp_path / "images"), "count": 7, "shard_size": 3, "batch_size": 2},
    }
    for section, keys in sections.items():
        values[section] = values.get(section, {}) | keys
    return GenerationConfig.parse(values, source="test")


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "images"))


@pytest.fixture
def maker(tmp_path: Path) -> ShardMaker:
    return ShardMaker(generation_config(tmp_path), "cpu")


@pytest.fixture
def latent_model(tmp_path: Path) -> Path:
    """The folder of a model whose images are latents of four channels."""
    tiny_dit(channels=4).save(tmp_path / "latent-model")
    return tmp_path / "latent-model"


@pytest.fixture
def autoencoder(tmp_path: Path) -> Path:
    return save_tiny_autoencoder(tmp_path / "vae")


def images_of(store: ObjectStore) -> Tensor:
    return torch.cat(list(ImageShards(store).batches(2)))


def test_shards_hold_the_images_of_their_numbers_whatever_their_size(
    tmp_path: Path, store: ObjectStore, maker: ShardMaker
) -> None:
    assert prepare_store(store, maker.settings) == [0, 1, 2]
    for number in (2, 0, 1):
        store.put(shard_name(number), maker.make(number))
    images = images_of(store)
    assert images.shape == (7, 3, 8, 8)

    other = generation_config(tmp_path, images={"storage": str(tmp_path / "other"), "shard_size": 7, "batch_size": 7})
    whole, at_once = open_store(other.images.storage), ShardMaker(other, "cpu")
    prepare_store(whole, at_once.settings)
    whole.put(shard_name(0), at_once.make(0))
    difference = images_of(whole).int() - images.int()
    assert difference.abs().max() <= 1
    assert images.float().std() > 10


def test_shard_is_the_same_when_it_is_made_again(tmp_path: Path, maker: ShardMaker) -> None:
    again = ShardMaker(generation_config(tmp_path), "cpu")
    assert again.make(1) == maker.make(1)
    other_seeds = ShardMaker(generation_config(tmp_path, images={"first_seed": 1}), "cpu")
    assert other_seeds.make(1) != maker.make(1)


def test_only_shards_that_are_missing_are_made(store: ObjectStore, maker: ShardMaker) -> None:
    prepare_store(store, maker.settings)
    store.put(shard_name(1), maker.make(1))
    assert prepare_store(store, maker.settings) == [0, 2]
    with pytest.raises(StorageError, match=r"lacks 2 of 3 shards; generate into it again"):
        ImageShards(store)


@pytest.mark.parametrize(
    ("section", "key", "value", "named"),
    [
        ("images", "shard_size", 4, "shard_size"),
        ("images", "count", 8, "images"),
        ("images", "first_seed", 9, "first_seed"),
        ("sampler", "steps", 3, "steps"),
        ("sampler", "guidance_scale", 4.0, "guidance"),
    ],
)
def test_images_of_other_settings_are_not_mixed_in(
    tmp_path: Path, store: ObjectStore, maker: ShardMaker, section: str, key: str, value: Any, named: str
) -> None:
    prepare_store(store, maker.settings)
    store.put(shard_name(1), maker.make(1))
    other = ShardMaker(generation_config(tmp_path, **{section: {key: value}}), "cpu")
    with pytest.raises(ConfigError) as caught:
        prepare_store(store, other.settings)
    assert caught.value.subject == f"{named} in {tmp_path / 'images' / SETTINGS}"
    assert prepare_store(store, maker.settings) == [0, 2]


def test_place_without_a_shard_may_get_other_settings(tmp_path: Path, store: ObjectStore, maker: ShardMaker) -> None:
    prepare_store(store, maker.settings)
    other = ShardMaker(generation_config(tmp_path, images={"count": 2}), "cpu")
    assert prepare_store(store, other.settings) == [0]
    store.put(shard_name(0), other.make(0))
    assert ImageShards(store).images == 2


def test_settings_that_are_none_are_refused_naming_them(store: ObjectStore) -> None:
    with pytest.raises(StorageError, match=f"there is no {SETTINGS}"):
        ImageShards(store)
    for content, problem in ((b"{", StorageError), (b'{"images": 0}', ConfigError)):
        store.put(SETTINGS, content)
        with pytest.raises(problem, match=f"{SETTINGS}: "):
            ImageShards(store)


def test_damaged_shard_and_one_of_another_size_are_refused_naming_them(store: ObjectStore, maker: ShardMaker) -> None:
    prepare_store(store, maker.settings)
    for number in range(3):
        store.put(shard_name(number), maker.make(number))
    for content in (maker.make(2), maker.make(1)[:-40]):
        store.put(shard_name(1), content)
        with pytest.raises(StorageError, match=rf"{shard_name(1)}: "):
            images_of(store)


def test_latents_become_the_pixels_that_their_autoencoder_makes_of_them(
    tmp_path: Path, latent_model: Path, autoencoder: Path, store: ObjectStore
) -> None:
    model = {"checkpoint": str(latent_model)}
    maker = ShardMaker(generation_config(tmp_path, model=model | {"vae": str(autoencoder)}), "cpu")
    prepare_store(store, maker.settings)
    for number in range(3):
        store.put(shard_name(number), maker.make(number))
    images = images_of(store)
    assert images.shape == (7, 3, 8, 8)

    latents = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    plain = AutoencoderKL.from_pretrained(autoencoder)
    with torch.no_grad():
        expected = plain.decode(latents / 0.18215).sample
    decoded = LatentDecoder(autoencoder).decode(latents)
    torch.testing.assert_close(decoded, expected)
    assert to_pixels(decoded).float().std() > 1


def test_model_and_autoencoder_have_to_fit_together(tmp_path: Path, latent_model: Path, autoencoder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^model.vae: is missing, and digits-dit makes latents of 4 channels"):
        ShardMaker(generation_config(tmp_path, model={"checkpoint": str(latent_model)}), "cpu")
    with pytest.raises(ConfigError, match=r"^model.vae: decodes latents of 4 channels, and digits-dit makes 1"):
        ShardMaker(generation_config(tmp_path, model={"vae": str(autoencoder)}), "cpu")


def test_broken_autoencoder_is_refused_naming_it(tmp_path: Path, autoencoder: Path) -> None:
    weights = autoencoder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for folder in (autoencoder, tmp_path / "none"):
        with pytest.raises(CheckpointError, match=str(folder)):
            LatentDecoder(folder)


def test_schedule_for_another_model_is_refused(tmp_path: Path, half_file: Path) -> None:
    ShardMaker(generation_config(tmp_path, sampler={"steps": 4}, images={"schedule": str(half_file)}), "cpu")
    with pytest.raises(ScheduleError, match=r"^sampler.steps: "):
        ShardMaker(generation_config(tmp_path, images={"schedule": str(half_file)}), "cpu")


@pytest.mark.parametrize("address", ["gs://bucket/a", "s3://no_bucket", ""])
def test_storage_that_is_no_address_is_refused_naming_the_key(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match=r"^images.storage in test: "):
        generation_config(tmp_path, images={"storage": address})
    assert generation_config(tmp_path, images={"storage": "s3://bucket/a"}).images.storage == "s3://bucket/a"


def test_bad_input_ends_the_commands_before_any_work(tmp_path: Path, refused: Refused) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[model]\nname = "digits-dit"\n[images]\nstorage = "images"\n')
    assert "images.size in " in refused("imagenet", "generate", config, "--set", "images.size=3")
    assert "model.name" in refused("imagenet", "generate", config, "--set", "model.name=none")
    reference, inception = tmp_path / "real.npz", tmp_path / "inception.pth"
    files = ("--reference", reference, "--inception", inception)
    for missing in (reference, inception):
        assert f"{missing}: cannot be read" in refused("imagenet", "evaluate", tmp_path, *files)
        missing.touch()
    assert "has no images" in refused("imagenet", "evaluate", tmp_path, *files)
