"""Scikit-learn's handwritten digits: 1,797 real grey images of 8x8 pixels (UCI optical recognition of digits)."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from l2c_ray.data.images import LabelledImages

IMAGE_SHAPE = (1, 8, 8)
NUM_CLASSES = 10
_BRIGHTEST = 16.0


def images_to_judge(image_shape: tuple[int, int, int]) -> Tensor | None:
    """The digits, for the distances of sets; None where a model's images are no digits."""
    return load().images if image_shape == IMAGE_SHAPE else None


def load() -> LabelledImages:
    """All digits in the data set's own order, pixels scaled from 0..16 to [-1, 1]."""
    bunch = load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.float32)[:, None] / (_BRIGHTEST / 2) - 1
    return LabelledImages(images, torch.as_tensor(bunch.target, dtype=torch.long))
