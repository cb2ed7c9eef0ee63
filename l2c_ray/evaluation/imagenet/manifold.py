"""Precision and recall of a set of images (arXiv 1904.06991): the share of each set within the other's manifold.

A set's manifold is the union of balls around its features, each reaching to the k-th nearest other feature. No kept
library computes it without the whole matrix of distances, which 50,000 images make 10 GB large.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NEIGHBOUR = 3
"""The neighbour that a ball reaches to, as in the paper and the ADM evaluator."""

_ROWS = 1000


class PrecisionRecall(NamedTuple):
    """Precision and recall, both in [0, 1]."""

    precision: float
    """Share of the generated images within the manifold of the real ones."""
    recall: float
    """Share of the real images within the manifold of the generated ones."""


def precision_recall(generated: Tensor, real: Tensor) -> PrecisionRecall:
    """Precision and recall of two sets by features [n, width] and [m, width], each of more than `NEIGHBOUR` images."""
    # Distances come from scalar products, which lose less to rounding the nearer the features are to the origin.
    centre = real.mean(dim=0)
    generated, real = generated - centre, real - centre
    return PrecisionRecall(
        precision=_share_within(generated, real, _radii(real)),
        recall=_share_within(real, generated, _radii(generated)),
    )


def _radii(features: Tensor) -> Tensor:
    """Distance [n] of each feature to its k-th nearest other one, itself being the nearest."""
    near = [
        torch.cdist(rows, features).topk(NEIGHBOUR + 1, dim=1, largest=False).values[:, -1]
        for rows in features.split(_ROWS)
    ]
    return torch.cat(near)


def _share_within(features: Tensor, centres: Tensor, radii: Tensor) -> float:
    within = sum(int((torch.cdist(rows, centres) <= radii).any(dim=1).sum()) for rows in features.split(_ROWS))
    return within / len(features)
