"""Checks of a Parquet file's footer before any row is read; Arrow trusts the sizes in it."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from l2c_ray.errors import StorageError

_MOST_UNPACKED = 64 << 20
_MOST_EXPANSION = 16
"""Limits of the unpacked size: bytes, or a multiple of the file's size. Pictures are compressed already."""


class Columns(NamedTuple):
    """Names of the two columns that are read."""

    image: str
    label: str


class Contents(NamedTuple):
    """Number of rows, the most in one row group, and the names of the labels if the file has them."""

    rows: int
    most_rows_in_group: int
    classes: tuple[str, ...] | None


def check(table: pq.ParquetFile, size: int, columns: Columns, path: str) -> Contents:
    """Contents of a file of `size` bytes; `path` is named in errors.

    Raises:
        StorageError: it lacks a column, gives two labels one name, or claims more than it can hold.
    """
    schema = table.schema_arrow
    _require_column(path, schema, columns.image, "bytes or structs of bytes", is_image)
    _require_column(path, schema, columns.label, "integers", pa.types.is_integer)
    groups = [table.metadata.row_group(number).num_rows for number in range(table.metadata.num_row_groups)]
    _require_likely_rows(path, groups, table.metadata.num_rows, size)
    _require_likely_bytes(path, table.metadata, size, columns)
    classes = _class_names(schema, columns.label)
    _require_distinct(path, classes or ())
    return Contents(sum(groups), max(groups, default=0), classes)


def is_image(kind: Any) -> bool:
    """Whether a column of this Arrow type can hold files."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and is_image(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _require_column(path: str, schema: Any, name: str, kind: str, fits: Callable[[Any], bool]) -> None:
    count = schema.names.count(name)
    if count != 1:
        problem = f"has {count or 'no'} column{'s' if count else ''} {name}"
        raise StorageError(path, problem, f"name one of {', '.join(schema.names)}")
    if not fits(schema.field(name).type):
        raise StorageError(path, f"{name} is {schema.field(name).type}, not {kind}", "name another column")


def _require_likely_rows(path: str, groups: list[int], rows: int, size: int) -> None:
    if sum(groups) != rows or min(groups, default=0) < 0 or rows > size:
        raise StorageError(path, f"says of its {size} bytes that they are {rows} images", "get it again")


def _require_likely_bytes(path: str, metadata: Any, size: int, columns: Columns) -> None:
    leaves = [
        leaf
        for leaf in range(metadata.num_columns)
        if f"{metadata.schema.column(leaf).path}.".startswith((f"{columns.image}.", f"{columns.label}."))
    ]
    sizes = [
        metadata.row_group(group).column(leaf).total_uncompressed_size
        for group in range(metadata.num_row_groups)
        for leaf in leaves
    ]
    unpacked = sum(sizes)
    if min(sizes, default=0) < 0 or unpacked > max(_MOST_UNPACKED, _MOST_EXPANSION * size):
        problem = f"would become {unpacked >> 20} MiB of {size} bytes, which pictures never do"
        raise StorageError(path, problem, "get it again, or write the pictures as JPEG or PNG")


def _require_distinct(path: str, classes: Sequence[str]) -> None:
    label_of: dict[str, int] = {}
    for label, name in enumerate(classes):
        first = label_of.setdefault(name, label)
        if first != label:
            raise StorageError(path, f"means {name} by the labels {first} and {label}", "give them names of their own")


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """Names of the classes that Hugging Face's `datasets` writes into the schema; None if there are none."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None
