"""What a learner draws its images from: one small interface, and images that are all in memory."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class TrainingImages(ABC):
    """One worker's share of a data set.

    The same (seed, iteration, rank) gives the same batch, whatever was drawn before, so that a resumed run is the run
    that was never cut off.
    """

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Labels are 0..num_classes-1."""

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Of what they are; workers' shares differ, unless a class says otherwise."""

    def settings(self) -> dict[str, str | int]:
        """What a run's record says of them, where a config does not say it all."""
        return {}

    @abstractmethod
    def batch(self, size: int, iteration: int, generator: torch.Generator) -> "LabelledImages":
        """The images of an iteration, float32.

        Args:
            size: how many, from 1 on.
            iteration: from 0 on.
            generator: seeded with (seed, iteration, rank), for those who draw at random.

        Raises:
            StorageError, UnreachableError: the images cannot be read.
        """


@dataclass(frozen=True)
class LabelledImages(TrainingImages):
    """Images [n, channels, height, width] in [-1, 1] with their labels [n]; a batch is drawn with replacement."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256(self.images.numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()

    def shard(self, rank: int, world_size: int) -> "LabelledImages":
        """Every `world_size`-th image from `rank` on: shards are disjoint and cover all images."""
        return LabelledImages(self.images[rank::world_size], self.labels[rank::world_size])

    def batch(self, size: int, iteration: int, generator: torch.Generator) -> "LabelledImages":
        chosen = torch.randint(len(self), (size,), generator=generator)
        return LabelledImages(self.images[chosen], self.labels[chosen])
