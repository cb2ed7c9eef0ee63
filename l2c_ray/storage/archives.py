"""Numpy's .npz archives from outside, read member by member and row by row: nothing in them can run."""

import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from l2c_ray.errors import StorageError

_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

_BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
"""What zipfile and numpy raise over damaged, encrypted or foreign content."""


class Header(NamedTuple):
    """What a member says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Archive:
    """An .npz file or its content in memory; `source` (its path or address) is named in errors.

    Raises:
        StorageError: it cannot be read or is no such archive. Each method raises it too, naming the member.
    """

    def __init__(self, content: Path | bytes, source: str) -> None:
        self._source = source
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content) if isinstance(content, bytes) else content)
        except _BROKEN as error:
            raise _unreadable(source, error) from error

    @property
    def names(self) -> set[str]:
        """Of the arrays."""
        return {name.removesuffix(".npy") for name in self._zip.namelist() if name.endswith(".npy")}

    def header(self, name: str) -> Header:
        """Shape and type of an array, without its values."""
        with self._open(name) as member:
            return self._header(name, member)

    def rows(self, name: str, at_a_time: int) -> Iterator[np.ndarray]:
        """The array [n, ...] in pieces of up to so many rows, so that it need not fit into memory."""
        with self._open(name) as member:
            shape, dtype = self._header(name, member)
            size = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
            for start in range(0, shape[0], at_a_time):
                count = min(at_a_time, shape[0] - start)
                content = self._read(name, member, count * size)
                yield np.frombuffer(content, dtype).reshape(count, *shape[1:])

    def array(self, name: str) -> np.ndarray:
        """The whole array [n, ...]."""
        return np.concatenate(list(self.rows(name, max(1, self.header(name).shape[0]))))

    def _open(self, name: str) -> IO[bytes]:
        if name not in self.names:
            raise StorageError(f"{name} in {self._source}", "is missing", f"it has {', '.join(sorted(self.names))}")
        try:
            return self._zip.open(f"{name}.npy")
        except _BROKEN as error:
            raise _unreadable(f"{name} in {self._source}", error) from error

    def _header(self, name: str, member: IO[bytes]) -> Header:
        subject = f"{name} in {self._source}"
        try:
            version = np.lib.format.read_magic(member)
            if version not in _READERS:
                raise ValueError(f"version {version} of the format")
            shape, in_columns, dtype = _READERS[version](member)
        except _BROKEN as error:
            raise _unreadable(subject, error) from error
        if dtype.hasobject or in_columns or not shape or 0 in shape:
            kind = f"{dtype} of shape {list(shape)}" + (" by columns" if in_columns else "")
            raise StorageError(subject, f"is {kind}, not rows of numbers", "save it as a plain array")
        return Header(shape, dtype)

    def _read(self, name: str, member: IO[bytes], size: int) -> bytes:
        subject = f"{name} in {self._source}"
        try:
            content = member.read(size)
        except _BROKEN as error:
            raise _unreadable(subject, error) from error
        if len(content) < size:
            raise StorageError(subject, "ends before its last row", "get the whole file")
        return content


def _unreadable(subject: str, error: Exception) -> StorageError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return StorageError(subject, f"cannot be read ({reason})", "give a whole .npz file of numpy")
