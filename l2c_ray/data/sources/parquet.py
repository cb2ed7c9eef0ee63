"""Parquet files with a column of encoded images and one of labels, as data sets of Hugging Face are published."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from l2c_ray.data.sources.base import Example, ImageFiles, Part, nothing_there, require_label
from l2c_ray.errors import StorageError
from l2c_ray.storage.trees import FileTree

_ROWS_AT_A_TIME = 64


class ParquetImages(ImageFiles):
    """A part is up to `part_size` rows of one file, in their order."""

    def __init__(self, tree: FileTree, classes: int, part_size: int, image_column: str, label_column: str) -> None:
        self._tree = tree
        self._classes = classes
        self._part_size = part_size
        self._image_column = image_column
        self._label_column = label_column

    def parts(self) -> list[Part]:
        found: list[tuple[str, tuple[int, int]]] = []
        sizes = self._tree.files()
        for file in sizes:
            if file.endswith(".parquet"):
                rows = self._rows(file)
                found += [
                    (file, (start, min(start + self._part_size, rows))) for start in range(0, rows, self._part_size)
                ]
        if not found:
            raise nothing_there(self._tree.address, ".parquet file with a row")
        return [Part(number, (file,), (sizes[file],), rows=rows) for number, (file, rows) in enumerate(found)]

    def read(self, part: Part) -> Iterator[Example]:
        (file,), (first, end) = part.files, part.rows
        with self._tree.open(file) as content:
            table = pq.ParquetFile(content)
            groups, start = _groups_with(table.metadata, first, end)
            columns = [self._image_column, self._label_column]
            for batch in table.iter_batches(_ROWS_AT_A_TIME, row_groups=groups, columns=columns):
                inside = range(max(first, start), min(end, start + batch.num_rows))
                if inside:
                    rows = batch.slice(inside.start - start, len(inside)).to_pylist()
                    yield from (
                        self._example(f"{file}#{number}", row) for number, row in zip(inside, rows, strict=True)
                    )
                start += batch.num_rows

    def _example(self, name: str, row: dict[str, Any]) -> Example:
        image = row[self._image_column]
        content = image.get("bytes") if isinstance(image, dict) else image
        # Without bytes it is as broken as an image of wrong bytes.
        return Example(name, content or b"", require_label(row[self._label_column], self._classes, name))

    def _rows(self, file: str) -> int:
        with self._tree.open(file) as content:
            table = pq.ParquetFile(content)
            schema = table.schema_arrow
            self._require_column(file, schema, self._image_column, "bytes or structs of bytes", _is_image)
            self._require_column(file, schema, self._label_column, "integers", pa.types.is_integer)
            return int(table.metadata.num_rows)

    def _require_column(self, file: str, schema: Any, name: str, kind: str, fits: Any) -> None:
        subject = f"{self._tree.address}/{file}"
        if name not in schema.names:
            raise StorageError(subject, f"has no column {name}", f"name one of {', '.join(schema.names)}")
        if not fits(schema.field(name).type):
            raise StorageError(subject, f"{name} is {schema.field(name).type}, not {kind}", "name another column")


def _is_image(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_image(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _groups_with(metadata: Any, first: int, end: int) -> tuple[list[int], int]:
    """The row groups that rows `first` up to `end` are in, and the first row of the first of them."""
    groups: list[int] = []
    begin = start = 0
    for number in range(metadata.num_row_groups):
        stop = start + metadata.row_group(number).num_rows
        if start < end and stop > first:
            begin = begin if groups else start
            groups.append(number)
        start = stop
    return groups, begin
