"""Training images: the interface from which learners draw batches, and images in memory."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class TrainingImages(ABC):
    """One worker's share of a data set.

    The same (seed, iteration, rank) gives the same batch, whatever was drawn before, so that a resumed run equals an
    uninterrupted one.
    """

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes; labels are 0..num_classes-1."""

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Hash of the images and labels; workers' shares differ, unless a class says otherwise."""

    def settings(self) -> dict[str, str | int]:
        """Settings to be recorded with a run beside its config."""
        return {}

    @abstractmethod
    def batch(self, size: int, iteration: int, generator: torch.Generator) -> "LabelledImages":
        """The images and labels of an iteration, float32 in [-1, 1] or latents.

        Args:
            size: number of images, at least 1.
            iteration: counted from 0.
            generator: seeded with (seed, iteration, rank), for implementations that draw at random.

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
