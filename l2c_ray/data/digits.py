"""Scikit-learn's handwritten digits: 1,797 real grey images of 8x8 pixels (UCI optical recognition of digits)."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor

IMAGE_SHAPE = (1, 8, 8)
NUM_CLASSES = 10
_BRIGHTEST = 16.0


@dataclass(frozen=True)
class LabelledImages:
    """Images [n, channels, height, width] in [-1, 1] with their labels [n]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def shard(self, rank: int, world_size: int) -> "LabelledImages":
        """Every `world_size`-th image from `rank` on: shards are disjoint and cover all images."""
        return LabelledImages(self.images[rank::world_size], self.labels[rank::world_size])


def images_to_judge(image_shape: tuple[int, int, int]) -> Tensor | None:
    """The digits, for the distances of sets; None where a model's images are no digits."""
    return load().images if image_shape == IMAGE_SHAPE else None


def load() -> LabelledImages:
    """All digits in the data set's own order, pixels scaled from 0..16 to [-1, 1]."""
    bunch = load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.float32)[:, None] / (_BRIGHTEST / 2) - 1
    return LabelledImages(images, torch.as_tensor(bunch.target, dtype=torch.long))
