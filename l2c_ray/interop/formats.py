"""Formats of other projects that can be read or written, and the losses of written ones."""

import codecs
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from l2c_ray.schedule import Table
from l2c_ray.storage.files import opened

ImportFormat = Literal["l2c-router", "smoothcache"]
ExportFormat = Literal["smoothcache", "cache-dit"]


@dataclass(frozen=True)
class Export:
    """A schedule in another project's format."""

    text: str
    lost: tuple[str, ...]
    """Losses against the schedule, one line each."""


def recognise(path: Path) -> ImportFormat:
    """The format of a file by its first character, since no pickle begins as a JSON object does.

    Raises:
        StorageError: the file cannot be read.
    """
    with opened(path) as file:
        start = file.read(1024).removeprefix(codecs.BOM_UTF8)
    return "smoothcache" if start.lstrip().startswith(b"{") else "l2c-router"


def dropped_forecast(table: Table) -> tuple[str, ...]:
    """Losses of a table's forecast in a format that has none; empty without a forecast."""
    forecasts = sum(bool(coefficients) for row in table.forecast or () for coefficients in row)
    if not forecasts:
        return ()
    return (f"the forecast of {forecasts} reused units: they take their last value as it is",)
