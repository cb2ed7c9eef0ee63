"""Shards of latents: Parquet objects in a store, with a latent, a label and a name in every row."""

import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from l2c_ray.config.encoding import LatentSettings
from l2c_ray.data import settings_file
from l2c_ray.data.images import LabelledImages
from l2c_ray.data.settings_file import SETTINGS, read_settings
from l2c_ray.errors import StorageError
from l2c_ray.storage.objects import ObjectStore

_SHARD = re.compile(r"^latents-(\d+)-([1-9]\d*)\.parquet$")
_COLUMNS = ("latent", "label", "name")
_SKIPPED = b"skipped"
_BYTES = 2
"""Bytes of a value in float16."""
_MOST_NAMES_BYTES = 64 << 20
"""Size limit of labels, names and names of skipped images together."""


@dataclass(frozen=True)
class Shard:
    """Number of a shard and its count of images, both part of its name so that counting reads no object."""

    number: int
    images: int

    @property
    def name(self) -> str:
        """Name of the object; names sort as the numbers do."""
        return f"latents-{self.number:06}-{self.images}.parquet"


def prepare_store(store: ObjectStore, settings: LatentSettings) -> list[Shard]:
    """Records the settings in a store without shards, or compares them; returns the shards there.

    Raises:
        ConfigError: its shards have other settings; names the first that differs.
        StorageError, UnreachableError: the store cannot be read or written.
    """
    there = _shards(store.names())
    settings_file.ensure_settings(store, settings, empty=not there, key="latents.storage")
    return there


def open_shards(store: ObjectStore) -> tuple[LatentSettings, list[Shard]]:
    """Settings of a store of latents, and all its shards, sorted by number.

    Raises:
        StorageError: the settings or a shard are missing, or a shard is there twice.
        ConfigError: the settings are not those of latents.
        UnreachableError: the store does not answer.
    """
    names = store.names()
    if SETTINGS not in names:
        raise StorageError(store.address, f"has no latents: there is no {SETTINGS}", "give a place of l2c encode")
    settings, shards = read_settings(store, LatentSettings), _shards(names)
    missing = settings.shards - len({shard.number for shard in shards if shard.number < settings.shards})
    if missing:
        problem = f"lacks {missing} of {settings.shards} shards"
        raise StorageError(store.address, problem, "encode into it again, which makes those alone")
    if len(shards) > settings.shards:
        problem = f"has {len(shards)} shards, not {settings.shards}"
        raise StorageError(store.address, problem, "remove those that do not belong there")
    return settings, shards


def encode(latents: np.ndarray, labels: Sequence[int], names: Sequence[str], skipped: Sequence[str]) -> bytes:
    """Content of a shard.

    Args:
        latents: float16 [n, channels, height, width].
        names: source of each image.
        skipped: names of the images that were left out.
    """
    flat = pa.array(latents.reshape(-1), pa.float16())
    columns = [
        pa.FixedSizeListArray.from_arrays(flat, int(np.prod(latents.shape[1:]))),
        pa.array(labels, pa.int64()),
        pa.array(names, pa.string()),
    ]
    table = pa.table(columns, _COLUMNS).replace_schema_metadata({_SKIPPED: json.dumps(list(skipped))})
    buffer = io.BytesIO()
    # Latents are incompressible.
    pq.write_table(table, buffer, compression="none", use_dictionary=False)
    return buffer.getvalue()


def read(store: ObjectStore, shard: Shard, settings: LatentSettings) -> LabelledImages:
    """Latents of a shard in float16, with their labels.

    Raises:
        StorageError: it is missing or damaged, or contradicts its name or the settings.
        UnreachableError: the store does not answer.
    """
    source = f"{store.address}/{shard.name}"
    values = settings.channels * settings.size**2
    content = store.get(shard.name, 2 * shard.images * values * _BYTES + _MOST_NAMES_BYTES)
    try:
        return _decode(content, shard.images, settings)
    except Exception as error:
        # Damaged files make Arrow raise almost anything.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise StorageError(source, f"is no shard of these latents ({reason})", "remove it and encode again") from error


def _decode(content: bytes, images: int, settings: LatentSettings) -> LabelledImages:
    shape = (images, settings.channels, settings.size, settings.size)
    file = pq.ParquetFile(pa.BufferReader(content))
    # Without compression no small file can become large in memory.
    if len(content) < math.prod(shape) * _BYTES or file.metadata.num_rows != images:
        raise ValueError(f"{file.metadata.num_rows} rows in {len(content)} bytes")
    if any(codec != "UNCOMPRESSED" for codec in _codecs(file.metadata)):
        raise ValueError("it is compressed")
    table = file.read(columns=["latent", "label"])
    flat = table["latent"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    latents = torch.from_numpy(flat.reshape(shape).copy())
    labels = torch.from_numpy(table["label"].to_numpy().copy())
    if latents.dtype != torch.float16 or labels.dtype != torch.int64 or len(labels) != images:
        raise ValueError(f"{len(labels)} labels of {labels.dtype} with latents of {latents.dtype}")
    if not latents.isfinite().all() or labels.min() < 0 or labels.max() >= settings.classes:
        raise ValueError("a latent that is not finite, or a label out of range")
    return LabelledImages(latents, labels)


def _codecs(metadata: Any) -> Iterator[str]:
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            yield metadata.row_group(group).column(column).compression


def _shards(names: set[str]) -> list[Shard]:
    found = filter(None, map(_SHARD.match, sorted(names)))
    return [Shard(int(match[1]), int(match[2])) for match in found]
