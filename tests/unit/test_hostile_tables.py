"""Parquet files that somebody damaged or built to do harm: one typed error, and no more memory than they weigh."""

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from latent_factories import SHAPE, latent_settings
from mutations import fuzzed, mutated
from picture_files import picture

from l2c_ray.data import latent_shards
from l2c_ray.data.latent_shards import Shard, open_shards, prepare_store
from l2c_ray.data.settings_file import SETTINGS
from l2c_ray.data.sources.base import Example
from l2c_ray.data.sources.parquet import ParquetImages
from l2c_ray.data.sources.parquet_check import Columns
from l2c_ray.errors import L2CError, StorageError
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_store, open_tree

MIB = 1 << 20

_POOLS: list[pa.MemoryPool] = []
"""Memory pools, which must outlive the values that a test read from them."""


def written(columns: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def repeated(value: bytes, rows: int) -> bytes:
    """A table in which the picture stands once, and all rows have it."""
    images = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value], pa.binary()))
    labels = pa.array([0] * rows)
    return written({"image": images, "label": labels}, dictionary_pagesize_limit=100 * MIB, store_schema=False)


def varint(number: int) -> bytes:
    """As numbers are written at the end of a table."""
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


def examples(folder: Path, part_size: int = 4) -> list[Example]:
    source = ParquetImages(open_tree(str(folder)), None, 3, part_size, Columns("image", "label"))
    return [example for part in source.parts() for example in source.read(part)]


def refusal(folder: Path, part_size: int = 4) -> str:
    with pytest.raises(StorageError) as caught:
        examples(folder, part_size)
    return str(caught.value)


def arrow_bytes(work: Callable[[], object]) -> int:
    """The most that Arrow holds at a time meanwhile."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    _POOLS.append(pool)
    pa.set_memory_pool(pool)
    try:
        work()
    finally:
        pa.set_memory_pool(usual)
    return int(pool.max_memory())


def test_few_bytes_that_would_become_a_large_picture_are_refused_unread(tmp_path: Path) -> None:
    content = written({"image": [bytes(80 * MIB)], "label": [0]}, compression="zstd")
    assert len(content) < MIB
    (tmp_path / "a.parquet").write_bytes(content)
    assert arrow_bytes(lambda: refusal(tmp_path)) < 4 * MIB
    assert f"{tmp_path}/a.parquet: would become 80 MiB of {len(content)} bytes" in refusal(tmp_path)


def test_table_that_tells_of_less_than_nothing_is_refused(tmp_path: Path) -> None:
    content = written({"image": [bytes(80 * MIB)], "label": [0]}, compression="zstd", use_dictionary=False)
    unpacked = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0).column(0).total_uncompressed_size
    told = varint(2 * unpacked)
    # An odd number stands for one below zero.
    (tmp_path / "a.parquet").write_bytes(content.replace(told, bytes([told[0] | 1]) + told[1:]))
    assert f"{tmp_path}/a.parquet: would become -" in refusal(tmp_path)


def test_picture_that_all_rows_share_is_in_memory_once(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(repeated(bytes(10 * MIB), 40))
    source = ParquetImages(open_tree(str(tmp_path)), None, 3, 40, Columns("image", "label"))
    (part,) = source.parts()
    sizes: list[int] = []
    assert arrow_bytes(lambda: sizes.extend(len(example.content) for example in source.read(part))) < 60 * MIB
    assert sizes == [10 * MIB] * 40


def test_more_rows_than_bytes_are_refused(tmp_path: Path) -> None:
    content = repeated(b"x", 100_000)
    assert len(content) < 10_000
    (tmp_path / "a.parquet").write_bytes(content)
    assert f"says of its {len(content)} bytes that they are 100000 images" in refusal(tmp_path)


def test_row_group_that_would_be_read_again_for_every_few_rows_is_refused(tmp_path: Path) -> None:
    rows = 200
    images = [picture(0)] * rows
    (tmp_path / "a.parquet").write_bytes(written({"image": images, "label": [0] * rows}, use_dictionary=False))
    line = refusal(tmp_path, part_size=1)
    assert "has a row group of 200 rows" in line
    assert "set latents.shard_size to 2 or more" in line
    assert len(examples(tmp_path, part_size=50)) == rows


def test_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([b"x"]), pa.array([b"y"]), pa.array([0])], ["image", "image", "label"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert f"{tmp_path}/a.parquet: has 2 columns image" in refusal(tmp_path)


@fuzzed
@given(
    mutated(
        written(
            {"image": [{"bytes": picture(seed), "path": "x"} for seed in range(6)], "label": [0, 1, 2] * 2},
            row_group_size=3,
            compression="zstd",
        )
    )
)
def test_damaged_table_is_read_or_refused(fuzzing: Path, content: bytes) -> None:
    (fuzzing / "a.parquet").write_bytes(content)

    def read() -> None:
        with suppress(L2CError):
            assert all(0 <= example.label < 3 for example in examples(fuzzing))

    assert arrow_bytes(read) < 64 * MIB


LATENTS = latent_shards.encode(np.ones((2, *SHAPE), np.float16), [0, 1], ["a", "b"], [])


@fuzzed
@given(mutated(LATENTS))
def test_damaged_shard_of_latents_is_read_or_refused(fuzzing: Path, content: bytes) -> None:
    store = open_store(str(fuzzing / "latents"))
    store.put(Shard(0, 2).name, content)

    def read() -> None:
        try:
            latents = latent_shards.read(store, Shard(0, 2), latent_settings())
        except L2CError:
            return
        assert latents.images.shape == (2, *SHAPE)
        assert latents.labels.shape == (2,)

    assert arrow_bytes(read) < 64 * MIB


@fuzzed
@given(mutated(latent_settings().model_dump_json().encode()))
def test_damaged_settings_of_latents_are_read_or_refused(fuzzing: Path, content: bytes) -> None:
    store = open_store(str(fuzzing / "settings"))
    store.put(SETTINGS, content)
    with suppress(L2CError):
        open_shards(store)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "latents"))


def test_shard_of_few_bytes_that_tells_of_many_latents_is_refused_unread(store: ObjectStore) -> None:
    zeros = pa.array(np.zeros(64 * 1000, np.float16))
    columns = {"latent": pa.FixedSizeListArray.from_arrays(zeros, 64), "label": [0] * 1000, "name": ["x"] * 1000}
    for images, options in ((1_000_000, {}), (1000, {"compression": "zstd", "use_dictionary": False})):
        shard = Shard(0, images)
        store.put(shard.name, written(columns, **options))

        def read(shard: Shard = shard) -> None:
            with pytest.raises(StorageError, match=rf"/{shard.name}: is no shard of these latents"):
                latent_shards.read(store, shard, latent_settings())

        assert arrow_bytes(read) < MIB


def test_objects_far_larger_than_what_is_read_are_refused_unread(store: ObjectStore, tmp_path: Path) -> None:
    prepare_store(store, latent_settings())
    for name in (SETTINGS, Shard(0, 2).name):
        with (tmp_path / "latents" / name).open("wb") as file:
            file.truncate(5 << 30)
    with pytest.raises(StorageError, match=rf"{SETTINGS}: has {5 << 30} bytes, more than the"):
        open_shards(store)
    with pytest.raises(StorageError, match=rf"{Shard(0, 2).name}: has {5 << 30} bytes, more than the"):
        latent_shards.read(store, Shard(0, 2), latent_settings())


def test_settings_that_tell_of_endless_shards_are_refused_at_once(store: ObjectStore) -> None:
    prepare_store(store, latent_settings(shards=10**15))
    with pytest.raises(StorageError, match=r"lacks 1000000000000000 of 1000000000000000 shards"):
        open_shards(store)
