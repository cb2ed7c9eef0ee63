"""Parquet files with a column of encoded images and one of labels, as Hugging Face publishes data sets."""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import pyarrow.parquet as pq

from l2c_ray.data.sources import parquet_check
from l2c_ray.data.sources.base import MOST_IMAGE_BYTES, Example, ImageFiles, Part, require_label
from l2c_ray.data.sources.parquet_check import Columns, Contents
from l2c_ray.errors import StorageError
from l2c_ray.storage.trees import FileTree

_BUFFER_BYTES = 1 << 20
"""Size of the pieces in which a column is read, however large its row groups are."""

_MOST_PARTS_OF_A_GROUP = 100


class ParquetImages(ImageFiles):
    """Images in Parquet files; a part is up to `part_size` consecutive rows of one file."""

    suffixes = frozenset({"parquet"})

    def __init__(self, tree: FileTree, pattern: str | None, classes: int, part_size: int, columns: Columns) -> None:
        super().__init__(tree, pattern)
        self._classes = classes
        self._part_size = part_size
        self._columns = columns

    def parts(self) -> list[Part]:
        sizes = self._choose(self._tree.entries(self._pattern))
        contents = {file: self._contents(file, size) for file, size in sizes.items()}
        self._require_small_groups(contents)
        self._require_same_classes(contents)
        ranges = [
            (file, (start, min(start + self._part_size, inside.rows)))
            for file, inside in contents.items()
            for start in range(0, inside.rows, self._part_size)
        ]
        if not ranges:
            raise self._nothing(".parquet file with a row")
        return [Part(number, (file,), (sizes[file],), rows=rows) for number, (file, rows) in enumerate(ranges)]

    def read(self, part: Part) -> Iterator[Example]:
        (file,), (size,), (first, end) = part.files, part.sizes, part.rows
        with self._tree.open(file) as content:
            table = pq.ParquetFile(content, buffer_size=_BUFFER_BYTES)
            classes = parquet_check.check(table, size, self._columns, self._tree.path(file)).classes
            groups, number = _groups_with(table.metadata, first, end)
            # One row at a time: a dictionary-encoded column may repeat one picture in all rows.
            for batch in table.iter_batches(1, row_groups=groups, columns=list(self._columns)):
                if first <= number < end:
                    (row,) = batch.to_pylist()
                    yield self._example(f"{file}#{number}", row, classes)
                number += 1
        if number < end:
            raise StorageError(self._tree.path(file), f"ends before its row {number}", "get it again")

    def _example(self, name: str, row: dict[str, Any], classes: tuple[str, ...] | None) -> Example:
        image = row[self._columns.image]
        content = image.get("bytes") if isinstance(image, dict) else image
        if content and len(content) > MOST_IMAGE_BYTES:
            problem = f"has {len(content)} bytes, and a picture has {MOST_IMAGE_BYTES} at most"
            raise StorageError(name, problem, "take it away")
        label = require_label(row[self._columns.label], self._classes, name)
        if classes and label >= len(classes):
            problem = f"has the label {label}, and its file has names for 0..{len(classes) - 1} alone"
            raise StorageError(self._tree.path(name), problem, "correct the label or the names")
        # An image without bytes is a broken one.
        return Example(name, content or b"", label)

    def _contents(self, file: str, size: int) -> Contents:
        with self._tree.open(file) as content:
            return parquet_check.check(pq.ParquetFile(content), size, self._columns, self._tree.path(file))

    def _require_small_groups(self, contents: dict[str, Contents]) -> None:
        """Refuses large row groups, of which every part would read all rows before its own."""
        for file, inside in contents.items():
            if inside.most_rows_in_group > _MOST_PARTS_OF_A_GROUP * self._part_size:
                problem = f"has a row group of {inside.most_rows_in_group} rows, each part of which reads those before"
                least = -(-inside.most_rows_in_group // _MOST_PARTS_OF_A_GROUP)
                remedy = f"set latents.shard_size to {least} or more, or write it with smaller row groups"
                raise StorageError(self._tree.path(file), problem, remedy)

    def _require_same_classes(self, contents: dict[str, Contents]) -> None:
        """Refuses files whose names of classes contradict each other."""
        named = [(file, inside.classes) for file, inside in contents.items() if inside.classes]
        for file, classes in named[1:]:
            first, expected = named[0]
            for label, (given, wanted) in enumerate(zip_longest(classes, expected)):
                if given != wanted:
                    problem = f"means {given} by the label {label}, and {first} means {wanted}"
                    raise StorageError(self._tree.path(file), problem, "choose files of one set with source.files")


def _groups_with(metadata: Any, first: int, end: int) -> tuple[list[int], int]:
    """Row groups with rows `first` to `end` (exclusive), and the first row of the first of them."""
    groups: list[int] = []
    begin = start = 0
    for number in range(metadata.num_row_groups):
        stop = start + metadata.row_group(number).num_rows
        if start < end and stop > first:
            begin = begin if groups else start
            groups.append(number)
        start = stop
    return groups, begin
