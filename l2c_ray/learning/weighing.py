"""What each image's error counts for when a router learns from a batch of trajectories."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Weighing:
    """Of the images of one batch.

    An image that is far off would decide alone over all choices, and few such images carry half of the mean error. So
    each image counts by c / (e + c), with its own error e at the end and the batch's geometric mean c.
    """

    error: Tensor
    """Mean squared error at the end, a scalar; every image counts alike."""
    loss: Tensor
    """The logarithm of the weighted error at the end and a part of that along the way, a scalar."""
    typical: Tensor
    """The geometric mean c, a scalar."""
    at_the_end: Tensor
    """What each image counts for there, [images]."""
    everywhere: Tensor
    """Of each step, [steps, images]: the gradient of the loss by the squares, times the weighted error at the end."""

    @classmethod
    def of(cls, squares: Tensor, along_the_way: float) -> Self:
        """Weighs a whole batch.

        Args:
            squares: mean squared error of each image after each step, [steps, images].
            along_the_way: weight of the logarithm of the mean error on the way beside that of the end, at least 0.
        """
        ends = squares[-1]
        typical = _log(ends).mean().exp()
        weights = typical / (ends + typical) / len(ends)
        errors = squares @ weights
        end, mean = errors[-1], errors.mean()
        everywhere = (along_the_way * end / (mean + _tiny(mean)) / len(squares) * weights).repeat(len(squares), 1)
        everywhere[-1] += weights
        return cls(ends.mean(), _log(end) + along_the_way * _log(mean), typical, weights, everywhere)

    def scores(self, errors: Tensor) -> Tensor:
        """What errors at the end [images] amount to: c e / (e + c), of which no image can have much more than c."""
        return self.typical * errors / (errors + self.typical)


def _log(error: Tensor) -> Tensor:
    return torch.log(error + _tiny(error))


def _tiny(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).tiny
