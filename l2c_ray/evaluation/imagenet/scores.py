"""FID, sFID, Inception score, precision and recall of generated images, as the papers on ImageNet report them."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from l2c_ray.errors import InvalidInputError
from l2c_ray.evaluation.imagenet.inception import POOLED, SPATIAL, Inception
from l2c_ray.evaluation.imagenet.manifold import NEIGHBOUR, precision_recall
from l2c_ray.evaluation.imagenet.metrics import FrechetTally, inception_score
from l2c_ray.evaluation.imagenet.reference import Reference
from l2c_ray.evaluation.imagenet.shards import ImageShards


@dataclass(frozen=True)
class Scores:
    """Scores of a set of generated images beside a reference batch."""

    images: int
    fid: float
    """Fréchet distance of the pooled features (arXiv 1706.08500); 0 is best."""
    sfid: float | None
    """The same of the spatial features (arXiv 2103.03841); None where the reference has neither their moments nor
    images."""
    inception_score: float
    """exp of the mean information about the class (arXiv 1606.03498), at least 1."""
    precision: float | None
    """This and recall (arXiv 1904.06991), in [0, 1], are None where the reference has no images."""
    recall: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Judge:
    """Computes scores in one pass of the network over the images; keeps the pooled features, 8 KB per image."""

    def __init__(self, network: Inception, batch_size: int, on_seen: Callable[[int], None]) -> None:
        """`on_seen` is called with the number of images seen so far, the reference's included."""
        self._network = network
        self._batch_size = batch_size
        self._on_seen = on_seen
        self._seen = 0

    def scores(self, generated: ImageShards, reference: Reference) -> Scores:
        """The scores of the generated images.

        Raises:
            InvalidInputError: either set has too few images; the network has seen none.
            StorageError, UnreachableError: images cannot be read.
        """
        _require_enough(generated.images, "the generated images")
        if reference.images:
            _require_enough(reference.images, "the reference batch")
        pooled, spatial = FrechetTally(POOLED), FrechetTally(SPATIAL)
        real_features = self._look(reference.batches(self._batch_size), pooled, spatial, real=True)
        for tally, moments in ((pooled, reference.pooled), (spatial, reference.spatial)):
            if moments:
                tally.replace_real(moments)
        features = self._look(generated.batches(self._batch_size), pooled, spatial, real=False)
        # The one part that would be slow on a CPU: 50,000 images have 2.5 billion distances.
        features, real_features = features.to(self._network.device), real_features.to(self._network.device)
        manifolds = precision_recall(features, real_features) if reference.images else None
        return Scores(
            images=len(features),
            fid=pooled.distance(),
            sfid=spatial.distance() if reference.images or reference.spatial else None,
            inception_score=inception_score(self._network.logits(features).cpu()),
            precision=manifolds and manifolds.precision,
            recall=manifolds and manifolds.recall,
        )

    def _look(self, batches: Iterator[Tensor], pooled: FrechetTally, spatial: FrechetTally, *, real: bool) -> Tensor:
        kept = [torch.empty(0, POOLED)]
        for images in batches:
            features = self._network(images)
            pooled.add(features.pooled, real=real)
            spatial.add(features.spatial, real=real)
            kept.append(features.pooled)
            self._seen += len(images)
            self._on_seen(self._seen)
        return torch.cat(kept)


def _require_enough(images: int, whose: str) -> None:
    if images <= NEIGHBOUR:
        raise InvalidInputError(whose, f"are {images}, too few to be judged", f"give at least {NEIGHBOUR + 1}")
