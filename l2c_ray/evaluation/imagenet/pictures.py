"""Pictures in the format of the ADM evaluator's sample files: `arr_0`, uint8 [n, height, width, channels]."""

import io
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from l2c_ray.errors import StorageError
from l2c_ray.storage.archives import Archive

PICTURES = "arr_0"
_MOST_PIXELS = 2048
"""Longest side. A file that compresses well could otherwise take far more memory than disk."""


def encode(pictures: np.ndarray, labels: np.ndarray) -> bytes:
    """An .npz file of uint8 pictures [n, height, width, channels] with their labels [n]."""
    buffer = io.BytesIO()
    np.savez(buffer, arr_0=pictures, arr_1=labels)
    return buffer.getvalue()


def count(archive: Archive, source: str) -> int:
    """Number of pictures in an archive.

    Raises:
        StorageError: it has none, or they are not uint8 [n, height, width, 1 or 3], or too large.
    """
    shape, dtype = archive.header(PICTURES)
    if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or max(shape[1:3]) > _MOST_PIXELS:
        problem = f"is {dtype} {list(shape)}, not uint8 [images, height, width, 1 or 3] of up to {_MOST_PIXELS} pixels"
        raise StorageError(f"{PICTURES} in {source}", problem, "give pictures as the ADM evaluator takes them")
    return shape[0]


def batches(archive: Archive, size: int) -> Iterator[Tensor]:
    """The pictures of an archive that `count` has passed, up to `size` at a time: uint8 [n, 3, height, width]."""
    for rows in archive.rows(PICTURES, size):
        # A copy, since torch warns of numpy's views that cannot be written to.
        yield torch.from_numpy(rows.copy()).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
