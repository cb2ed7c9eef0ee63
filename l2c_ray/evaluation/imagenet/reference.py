"""The reference batch that generated images are compared with, in the file format of the ADM evaluator.

Such a file (arXiv 2105.05233) has real images in `arr_0`, or the mean and covariance of their features in `mu`, `sigma`
(pooled) and `mu_s`, `sigma_s` (spatial), or both; with both, the moments are of more images than the file has.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from l2c_ray.errors import StorageError
from l2c_ray.evaluation.imagenet import pictures
from l2c_ray.evaluation.imagenet.inception import POOLED, SPATIAL
from l2c_ray.storage.archives import Archive


class Moments(NamedTuple):
    """Mean and covariance of a set's features, for the Fréchet distance."""

    mean: Tensor
    """[width], float64."""
    covariance: Tensor
    """[width, width], float64."""


class Reference:
    """A reference batch, whose images stay in the file until they are read."""

    def __init__(self, path: Path) -> None:
        """Opens the file and checks it.

        Raises:
            StorageError: it cannot be read, has neither images nor moments, or has them in other shapes.
        """
        source = str(path)
        self._archive = Archive(path, source)
        self._source = source
        names = self._archive.names
        if pictures.PICTURES not in names and "mu" not in names:
            problem = f"has neither images ({pictures.PICTURES}) nor moments (mu, sigma)"
            raise StorageError(source, problem, "give a reference batch of the ADM evaluator")
        self.images = pictures.count(self._archive, source) if pictures.PICTURES in names else 0
        """Number of images; 0 if the file has moments alone."""
        self.pooled = self._moments("mu", "sigma", POOLED) if "mu" in names else None
        self.spatial = self._moments("mu_s", "sigma_s", SPATIAL) if "mu_s" in names else None

    def batches(self, size: int) -> Iterator[Tensor]:
        """The images, up to `size` at a time: uint8 [n, 3, height, width]."""
        return pictures.batches(self._archive, size) if self.images else iter(())

    def _moments(self, mean: str, covariance: str, width: int) -> Moments:
        return Moments(self._read(mean, (width,)), self._read(covariance, (width, width)))

    def _read(self, name: str, wanted: tuple[int, ...]) -> Tensor:
        subject = f"{name} in {self._source}"
        remedy = "give a reference batch of the ADM evaluator"
        shape, dtype = self._archive.header(name)
        if shape != wanted or dtype.kind != "f":
            raise StorageError(subject, f"is {dtype} {list(shape)}, not float {list(wanted)}", remedy)
        values = torch.from_numpy(self._archive.array(name).astype("float64"))
        if not values.isfinite().all():
            raise StorageError(subject, "holds values that are not finite", remedy)
        return values
