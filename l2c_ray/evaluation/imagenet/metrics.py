"""Fréchet distance and Inception score of features that a network has already made of images."""

import math
import warnings

import torch
from torch import Tensor, nn

from l2c_ray.evaluation.imagenet.reference import Moments

_SPLITS = 10


class FrechetTally:
    """Moments of the features of two sets, added up batch by batch, and the Fréchet distance between them."""

    def __init__(self, width: int) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        self._metric = FrechetInceptionDistance(feature=_AsTheyAre(width))

    def add(self, features: Tensor, *, real: bool) -> None:
        """Adds the features [n, width] of real or generated images."""
        self._metric.update(features, real=real)

    def replace_real(self, real: Moments) -> None:
        """Replaces the moments of all real images added so far."""
        # As sums over two images: then the covariance, which divides by one less, comes out as it is.
        self._metric.real_features_sum = 2 * real.mean
        self._metric.real_features_cov_sum = real.covariance + 2 * torch.outer(real.mean, real.mean)
        self._metric.real_features_num_samples = torch.tensor(2)

    def distance(self) -> float:
        """Fréchet distance between the two sets, of at least 2 images each."""
        value = float(self._metric.compute())
        # Rounding can take the distance of a set to itself below zero.
        return value if math.isnan(value) else max(0.0, value)


def inception_score(logits: Tensor) -> float:
    """Inception score of logits [n, classes]: the mean over 10 random parts, the same ones every time."""
    from torchmetrics.image.inception import InceptionScore

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # It warns of the memory that the logits take.
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(0)
        metric = InceptionScore(feature=_AsTheyAre(logits.shape[1]), splits=_SPLITS)
        metric.update(logits)
        mean, _ = metric.compute()
    return float(mean)


class _AsTheyAre(nn.Module):
    """Identity in place of torchmetrics' network, since features are computed once for all metrics."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features
