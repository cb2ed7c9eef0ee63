"""Distances of images to the baseline's, pixel by pixel and as a set, and of both to real ones."""

import math
import warnings

import torch
from torch import Tensor, nn

from l2c_ray.evaluation.classifier import DigitClassifier

_PEAK_TO_PEAK = 2.0
_SSIM_SIGMA = 0.5
_KERNEL_SUBSETS = 100
_LARGEST_SUBSET = 128
_KERNEL_SEED = 0


class ErrorTally:
    """Errors of one candidate's images, added up chunk by chunk, and the features of each image if wanted."""

    def __init__(self, judge: DigitClassifier | None) -> None:
        self._judge = judge
        self._images = 0
        self._values = 0
        self._squared_error = 0.0
        self._similarity = 0.0
        self._features: list[Tensor] = []

    def add(self, images: Tensor, reference: Tensor) -> None:
        """Adds images and the baseline's of the same seeds; both [n, channels, height, width] in [-1, 1]."""
        self._images += len(images)
        self._values += images.numel()
        self._squared_error += (images.double() - reference.double()).square().sum().item()
        self._similarity += structural_similarity(images, reference) * len(images)
        if self._judge:
            self._features.append(self._judge(images))

    @property
    def mse(self) -> float:
        """Mean squared error over all pixels."""
        return self._squared_error / self._values

    @property
    def ssim(self) -> float:
        """Mean structural similarity; 1 for equal images."""
        return self._similarity / self._images

    @property
    def features(self) -> Tensor | None:
        """Features [images, 64] of the classifier's last hidden layer; None without a classifier for such images."""
        return torch.cat(self._features) if self._features else None


def peak_signal_to_noise(error: float) -> float | None:
    """PSNR in dB of a mean squared error on images in [-1, 1]; None at error 0, where it has no bound."""
    return 10 * math.log10(_PEAK_TO_PEAK**2 / error) if error else None


def structural_similarity(images: Tensor, reference: Tensor) -> float:
    """Mean SSIM (Wang et al., 2004) of two batches [n, channels, height, width] in [-1, 1].

    The window is a Gaussian of sigma 0.5 on 5x5 pixels: the usual one, of sigma 1.5 on 11x11, does not fit in an image
    of 8x8. Values compare with others of this window only.
    """
    from torchmetrics.image import StructuralSimilarityIndexMeasure

    metric = StructuralSimilarityIndexMeasure(sigma=_SSIM_SIGMA, data_range=_PEAK_TO_PEAK)
    return float(metric(images, reference))


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """Fréchet distance (arXiv 1706.08500) of two sets of images by their features, [n, 64] and [m, 64]."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_AsTheyAre())
    metric.update(reference, real=True)
    metric.update(features, real=False)
    distance = float(metric.compute())
    # Rounding can take the distance of a set to itself below zero; a NaN stays a NaN.
    return 0.0 if distance < 0 else distance


def kernel_distance(features: Tensor, reference: Tensor) -> float:
    """Kernel distance (KID, arXiv 1801.01401) of a candidate's images to the baseline's, by features [n, 64].

    The mean over 100 pairs of random subsets, the same ones every time, of 128 images (of half of them if there are
    fewer than 256). Images of one seed are all but equal, which takes the estimate below zero where both are drawn;
    so the reference's own distance to itself is subtracted, and a set equal to the reference has distance 0.
    """
    return _kernel_estimate(features, reference) - _kernel_estimate(reference, reference)


def _kernel_estimate(features: Tensor, reference: Tensor) -> float:
    from torchmetrics.image.kid import KernelInceptionDistance

    subset_size = max(2, min(_LARGEST_SUBSET, len(reference) // 2))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # It warns of the features in memory, 64 numbers per image.
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(_KERNEL_SEED)
        metric = KernelInceptionDistance(feature=_AsTheyAre(), subsets=_KERNEL_SUBSETS, subset_size=subset_size)
        metric.update(reference, real=True)
        metric.update(features, real=False)
        mean, _ = metric.compute()
    return float(mean)


class _AsTheyAre(nn.Module):
    """Identity in place of torchmetrics' network, since features are computed once per image."""

    num_features = DigitClassifier.num_features

    def forward(self, features: Tensor) -> Tensor:
        return features
