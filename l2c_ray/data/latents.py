"""Training latents from shards in a store, a few shards in memory at a time."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate

import torch
from torch import Tensor

from l2c_ray.data import latent_shards
from l2c_ray.data.images import LabelledImages, TrainingImages
from l2c_ray.data.latent_shards import Shard, open_shards
from l2c_ray.data.seeding import draw_seed
from l2c_ray.errors import ConfigError
from l2c_ray.storage.objects import ObjectStore


@dataclass(frozen=True)
class _Window:
    """Shards that are shuffled together: window `place` of an epoch."""

    epoch: int
    place: int


class LatentImages(TrainingImages):
    """Every `workers`-th shard from `rank` on, in epochs without repetition.

    Each epoch permutes the shards; windows of `shuffle_shards` consecutive ones are shuffled together. The place of
    iteration i in this sequence depends on i alone, so a resumed run needs no state.
    """

    def __init__(self, store: ObjectStore, seed: int, rank: int, workers: int, shuffle_shards: int) -> None:
        """Lists the shards; latents are read when they are needed.

        Raises:
            ConfigError: there are fewer shards than workers, or the store has no latents.
            StorageError, UnreachableError: the store cannot be read or lacks shards.
        """
        self._settings, shards = open_shards(store)
        if len(shards) < workers:
            problem = f"{workers} workers have no shard each, {store.address} has {len(shards)}"
            raise ConfigError("cluster.workers", problem, "take fewer, or encode with a smaller latents.shard_size")
        self._store = store
        self._seed = seed
        self._rank = rank
        self._shuffle_shards = shuffle_shards
        self._shards = shards[rank::workers]
        made = [self._settings.model_dump_json(), *(shard.name for shard in shards)]
        self._sha256 = sha256("\n".join(made).encode()).hexdigest()
        self._in_an_epoch = sum(shard.images for shard in self._shards)
        self._open: tuple[_Window, LabelledImages] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._settings.channels, self._settings.size, self._settings.size

    @property
    def num_classes(self) -> int:
        return self._settings.classes

    @property
    def sha256(self) -> str:
        """Hash of the settings and the names of all shards, the same on every worker."""
        return self._sha256

    def settings(self) -> dict[str, str | int]:
        return {"latents_sha256": self._sha256, "shuffle_shards": self._shuffle_shards}

    def batch(self, size: int, iteration: int, generator: torch.Generator) -> LabelledImages:
        """The next images of the sequence; `generator` is not used."""
        images: list[Tensor] = []
        labels: list[Tensor] = []
        position, end = iteration * size, (iteration + 1) * size
        while position < end:
            window, start = self._locate(position)
            drawn = self._read(window)
            part = slice(start, start + end - position)
            images.append(drawn.images[part].float())
            labels.append(drawn.labels[part])
            position += len(labels[-1])
        return LabelledImages(torch.cat(images), torch.cat(labels))

    def _locate(self, position: int) -> tuple[_Window, int]:
        """The window of a position in the sequence, and the offset in it."""
        epoch, rest = divmod(position, self._in_an_epoch)
        ends = list(accumulate(map(_count, self._windows(epoch))))
        place = bisect_right(ends, rest)
        return _Window(epoch, place), rest - (ends[place - 1] if place else 0)

    def _windows(self, epoch: int) -> list[list[Shard]]:
        order = [self._shards[index] for index in self._permutation("shards", epoch, len(self._shards))]
        return [order[start : start + self._shuffle_shards] for start in range(0, len(order), self._shuffle_shards)]

    def _read(self, window: _Window) -> LabelledImages:
        if self._open is None or self._open[0] != window:
            # Releases the previous window first, so that memory never holds two.
            self._open = None
            self._open = window, self._shuffled(window)
        return self._open[1]

    def _shuffled(self, window: _Window) -> LabelledImages:
        windows = self._windows(window.epoch)
        parts = [latent_shards.read(self._store, shard, self._settings) for shard in windows[window.place]]
        images = torch.cat([part.images for part in parts])
        labels = torch.cat([part.labels for part in parts])
        order = self._permutation("images", window.epoch * len(windows) + window.place, len(labels))
        return LabelledImages(images[order], labels[order])

    def _permutation(self, purpose: str, number: int, length: int) -> list[int]:
        generator = torch.Generator().manual_seed(draw_seed(self._seed, purpose, number, self._rank))
        order: list[int] = torch.randperm(length, generator=generator).tolist()
        return order


def _count(shards: Sequence[Shard]) -> int:
    return sum(shard.images for shard in shards)
