"""Preparation of images for the autoencoder, and assembly of its latents to shards."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2c_ray.config.encoding import LatentsSection
from l2c_ray.data import latent_shards
from l2c_ray.data.cropping import center_crop
from l2c_ray.data.latent_shards import Shard
from l2c_ray.data.seeding import draw_seed
from l2c_ray.data.sources.base import Example, ImageFiles, Part, told
from l2c_ray.errors import EncodingError, StorageError

Row = dict[str, Any]
"""An image in the pipeline: its `shard`, `place` in the shard and whether it is the `last`, `name`, `label`, `problem`,
and `pixels` or `latent`. The last one has the counts of members that are no images, by kind, as JSON in `passed_over`.
"""


def rows_of(source: ImageFiles, part: Part, how: LatentsSection) -> Iterator[Row]:
    """The images of a part, cropped and mirrored at random: `pixels` are uint8 [image_size, image_size, 3].

    A broken image has a `problem` and pixels of 0.

    Raises:
        StorageError, UnreachableError: the part cannot be read or has no image.
    """
    before: Row | None = None
    for place, example in enumerate(source.read(part)):
        if before:
            yield before
        before = {"shard": part.number, "place": place, "last": False, "passed_over": ""} | _prepare(example, how)
    if not before:
        there = told(source.passed_over)
        problem = "has no image" + (f", but {there}" if there else "")
        raise StorageError(", ".join(part.files), problem, "remove it, or get it again")
    yield before | {"last": True, "passed_over": json.dumps(source.passed_over)}


def noise_of(names: list[str], seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Noise for samples of each image's posterior, [n, *shape]; it depends on the seed and the image's name alone."""
    generators = (torch.Generator().manual_seed(draw_seed(seed, f"posterior of {name}", 0)) for name in names)
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def to_images(pixels: np.ndarray) -> Tensor:
    """Images [n, 3, height, width] in [-1, 1] from pixels uint8 [n, height, width, 3]."""
    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


def _prepare(example: Example, how: LatentsSection) -> Row:
    row: Row = {"name": example.name, "label": example.label, "problem": ""}
    try:
        pixels = center_crop(example.content, how.image_size)
    except ValueError as error:
        return row | {"problem": str(error), "pixels": np.zeros((how.image_size, how.image_size, 3), np.uint8)}
    if how.mirrored and draw_seed(how.seed, f"mirror {example.name}", 0) % 2:
        pixels = pixels[:, ::-1].copy()
    return row | {"pixels": pixels}


@dataclass
class _Unfinished:
    rows: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """Rows by their place."""
    total: int | None = None

    @property
    def whole(self) -> bool:
        return len(self.rows) == self.total


class Gatherer:
    """Assembles shards from rows that arrive in any order."""

    def __init__(self, how: LatentsSection) -> None:
        self._skip_broken = how.skip_broken
        self._unfinished: dict[int, _Unfinished] = {}
        self.skipped: list[str] = []
        """Names of the images of finished shards that were left out."""
        self.passed_over: Counter[str] = Counter()
        """Counts of members of finished shards that are no images, by kind."""

    def add(self, row: Mapping[str, Any]) -> tuple[Shard, bytes] | None:
        """The shard and its content if the row completes it, else None.

        Raises:
            StorageError: the image is broken and not to be skipped, or all images of its shard are.
            EncodingError: its latent is not finite.
        """
        if row["problem"] and not self._skip_broken:
            remedy = "repair it, or leave broken ones out with latents.skip_broken=true"
            raise StorageError(str(row["name"]), str(row["problem"]), remedy)
        if not row["problem"] and not np.isfinite(row["latent"]).all():
            remedy = "check the autoencoder's weights and its scaling_factor"
            raise EncodingError(str(row["name"]), "has a latent that is no finite number in float16", remedy)
        number, place = int(row["shard"]), int(row["place"])
        unfinished = self._unfinished.setdefault(number, _Unfinished())
        unfinished.rows[place] = row
        if row["last"]:
            unfinished.total = place + 1
        if not unfinished.whole:
            return None
        return self._finish(number, self._unfinished.pop(number))

    def _finish(self, number: int, unfinished: _Unfinished) -> tuple[Shard, bytes]:
        rows = [unfinished.rows[place] for place in sorted(unfinished.rows)]
        skipped = [str(row["name"]) for row in rows if row["problem"]]
        good = [row for row in rows if not row["problem"]]
        if not good:
            problem = f"and all others of shard {number} are broken ({rows[0]['problem']})"
            raise StorageError(skipped[0], problem, "repair them or take them away")
        self.skipped += skipped
        self.passed_over.update(json.loads(rows[-1]["passed_over"]))
        content = latent_shards.encode(
            np.stack([row["latent"] for row in good]),
            [int(row["label"]) for row in good],
            [str(row["name"]) for row in good],
            skipped,
        )
        return Shard(number, len(good)), content
