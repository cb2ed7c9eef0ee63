"""How far images are from the full run's, and how far both are from real ones."""

import math

from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from l2c_ray.evaluation import classifier

_PEAK_TO_PEAK = 2.0


def mean_squared_error(images: Tensor, reference: Tensor) -> float:
    """Over all pixels of images of the same seeds, both in [-1, 1]."""
    return (images.double() - reference.double()).square().mean().item()


def peak_signal_to_noise(error: float) -> float | None:
    """PSNR in dB of a mean squared error on images in [-1, 1]; None at error 0, where it has no bound."""
    return 10 * math.log10(_PEAK_TO_PEAK**2 / error) if error else None


def frechet_distance(images: Tensor, reference: Tensor) -> float:
    """Fréchet distance (arXiv 1706.08500) of two sets of digits [n, 1, 8, 8] in the digit classifier's features."""
    metric = FrechetInceptionDistance(feature=classifier.load(), normalize=True)
    metric.update(reference, real=True)
    metric.update(images, real=False)
    distance = float(metric.compute())
    # Rounding can take the distance of a set to itself below zero; what is not a number stays none.
    return 0.0 if distance < 0 else distance
