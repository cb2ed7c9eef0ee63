"""Weights of the images of a batch in the loss of a trajectory."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """A robust weight c / (e + c) for each image, with its own final error e and the batch's geometric mean c.

    A few images that are far off carry half of the mean error, and would decide about all choices without it.
    """

    error: Tensor
    """Mean squared error of the final images, unweighted, a scalar."""
    loss: Tensor
    """Logarithm of the weighted final error plus the weighted logarithm of the mean error over all steps, a scalar."""
    typical: Tensor
    """The geometric mean c, a scalar."""
    final: Tensor
    """Weight of each image's final error, [images]."""
    by_step: Tensor
    """Gradient of the loss by the errors, times the weighted final error, [steps, images]."""

    @classmethod
    def of(cls, errors: Tensor, intermediate_loss_weight: float) -> Self:
        """The weights of a whole batch.

        Args:
            errors: mean squared error of each image after each step, [steps, images].
            intermediate_loss_weight: weight of the logarithm of the mean error over all steps, at least 0; that of
                the final error has weight 1.
        """
        steps = len(errors)
        final = errors[-1]
        typical = _log(final).mean().exp()
        weights = typical / (final + typical) / len(final)
        weighted = errors @ weights
        end, mean = weighted[-1], weighted.mean()
        by_step = (intermediate_loss_weight * end / (mean + _tiny(mean)) / steps * weights).repeat(steps, 1)
        by_step[-1] += weights
        return cls(final.mean(), _log(end) + intermediate_loss_weight * _log(mean), typical, weights, by_step)

    def bounded(self, final_errors: Tensor) -> Tensor:
        """Final errors [images] as c e / (e + c), of which no image can have more than c."""
        return self.typical * final_errors / (final_errors + self.typical)


def _log(error: Tensor) -> Tensor:
    return torch.log(error + _tiny(error))


def _tiny(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).tiny
