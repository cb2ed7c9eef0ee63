"""Many images in a store, one object per shard: shard k holds the images k x size up to (k + 1) x size."""

import re
from collections.abc import Iterator

from torch import Tensor

from l2c_ray.config.imagenet import ShardSettings
from l2c_ray.data import settings_file
from l2c_ray.data.settings_file import SETTINGS, read_settings
from l2c_ray.errors import StorageError
from l2c_ray.evaluation.imagenet import pictures
from l2c_ray.storage.archives import Archive
from l2c_ray.storage.objects import ObjectStore

_SHARD = re.compile(r"^images-\d+\.npz$")


def shard_name(number: int) -> str:
    """Name of the shard's object; names sort in the order of the images."""
    return f"images-{number:06}.npz"


def shard_numbers(settings: ShardSettings) -> range:
    return range(-(-settings.images // settings.shard_size))


def shard_images(settings: ShardSettings, number: int) -> range:
    """The images of a shard; the last shard may have fewer than the others."""
    start = number * settings.shard_size
    return range(start, min(start + settings.shard_size, settings.images))


def prepare_store(store: ObjectStore, settings: ShardSettings) -> list[int]:
    """Makes the store one of images with these settings, and tells the numbers of the shards that it lacks.

    Raises:
        ConfigError: it has shards with other settings; names the first one that differs.
        StorageError, UnreachableError: the store cannot be read or written.
    """
    names = store.names()
    settings_file.ensure_settings(store, settings, empty=not any(map(_SHARD.match, names)), key="images.storage")
    return _missing(settings, names)


class ImageShards:
    """All images of a store, read one shard at a time."""

    def __init__(self, store: ObjectStore) -> None:
        """Checks that all shards are there.

        Raises:
            StorageError: a shard or the settings are missing.
        """
        names = store.names()
        if SETTINGS not in names:
            problem = f"has no images: there is no {SETTINGS}"
            raise StorageError(store.address, problem, "give a place where images were generated")
        self.settings = read_settings(store, ShardSettings)
        missing = _missing(self.settings, names)
        if missing:
            problem = f"lacks {len(missing)} of {len(shard_numbers(self.settings))} shards"
            raise StorageError(store.address, problem, "generate into it again, which makes those alone")
        self.images = self.settings.images
        self._store = store

    def batches(self, size: int) -> Iterator[Tensor]:
        """The images in order, up to `size` at a time: uint8 [n, 3, height, width].

        Raises:
            StorageError: a shard is damaged or has another number of images than it should.
        """
        for number in shard_numbers(self.settings):
            name = shard_name(number)
            source = f"{self._store.address}/{name}"
            archive = Archive(self._store.get(name), source)
            found, wanted = pictures.count(archive, source), len(shard_images(self.settings, number))
            if found != wanted:
                raise StorageError(source, f"has {found} images, not {wanted}", "remove it and generate again")
            yield from pictures.batches(archive, size)


def _missing(settings: ShardSettings, names: set[str]) -> list[int]:
    return [number for number in shard_numbers(settings) if shard_name(number) not in names]
