"""Scikit-learn's handwritten digits: 1,797 real grey images of 8x8 pixels (UCI optical recognition of digits)."""

from importlib.metadata import distribution

import numpy as np
import torch
from torch import Tensor

from l2c_ray.data.images import LabelledImages

IMAGE_SHAPE = (1, 8, 8)
NUM_CLASSES = 10
_BRIGHTEST = 16.0
_FILE = "sklearn/datasets/data/digits.csv.gz"
"""Rows of 64 pixels and a label; read directly, since importing scikit-learn takes as long as importing torch."""


def images_to_judge(image_shape: tuple[int, int, int]) -> Tensor | None:
    """The digits [1797, 1, 8, 8] in [-1, 1] as reference set; None if a model's images have another shape."""
    return load().images if image_shape == IMAGE_SHAPE else None


def load() -> LabelledImages:
    """All 1,797 digits in the data set's order, pixels scaled from 0..16 to [-1, 1]."""
    rows = np.loadtxt(str(distribution("scikit-learn").locate_file(_FILE)), delimiter=",")
    images = torch.as_tensor(rows[:, :-1].reshape(-1, *IMAGE_SHAPE), dtype=torch.float32) / (_BRIGHTEST / 2) - 1
    return LabelledImages(images, torch.as_tensor(rows[:, -1], dtype=torch.long))
