"""Numpy's .npz archives from outside, read row by row without running anything; numpy.load reads whole arrays."""

import io
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NamedTuple
from zipfile import ZipFile

import numpy as np

from l2c_ray.errors import StorageError
from l2c_ray.storage import zips
from l2c_ray.storage.files import opened

_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

_NUMBERS = "buif"
"""Numpy's kinds of dtypes: booleans, unsigned and signed integers, floating-point numbers."""


class Header(NamedTuple):
    """Shape and dtype of a member."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Archive:
    """An .npz file or its content in memory; `source` (its path or address) is named in errors.

    Raises:
        StorageError: it cannot be read or is no such archive. Each method raises it too, naming the member.
    """

    def __init__(self, content: Path | bytes, source: str) -> None:
        self._source = source
        self._files = ExitStack()
        file = io.BytesIO(content) if isinstance(content, bytes) else self._files.enter_context(opened(content))
        with _typed_errors(source):
            self._zip = ZipFile(file)
            self._members = zips.members(self._zip)

    @property
    def names(self) -> set[str]:
        """Names of the arrays."""
        return {name.removesuffix(".npy") for name in self._members if name.endswith(".npy")}

    def header(self, name: str) -> Header:
        """Shape and dtype of an array; its values are not read."""
        with self._open(name) as member:
            return self._header(name, member)

    def rows(self, name: str, at_a_time: int) -> Iterator[np.ndarray]:
        """The array [n, ...] in pieces of up to `at_a_time` rows, so that it need not fit into memory."""
        with self._open(name) as member:
            shape, dtype = self._header(name, member)
            size = math.prod(shape[1:]) * dtype.itemsize
            for start in range(0, shape[0], at_a_time):
                count = min(at_a_time, shape[0] - start)
                content = self._read(name, member, count * size)
                yield np.frombuffer(content, dtype).reshape(count, *shape[1:])

    def array(self, name: str) -> np.ndarray:
        """The whole array [n, ...]."""
        return np.concatenate(list(self.rows(name, max(1, self.header(name).shape[0]))))

    def _open(self, name: str) -> IO[bytes]:
        if name not in self.names:
            raise StorageError(self._subject(name), "is missing", f"it has {', '.join(sorted(self.names))}")
        with _typed_errors(self._subject(name)):
            return self._zip.open(f"{name}.npy")

    def _header(self, name: str, member: IO[bytes]) -> Header:
        with _typed_errors(self._subject(name)):
            version = np.lib.format.read_magic(member)
            if version not in _READERS:
                raise ValueError(f"version {version} of the format")
            shape, in_columns, dtype = _READERS[version](member)
        if dtype.kind not in _NUMBERS or in_columns or not shape or min(shape) < 1:
            kind = f"{dtype} of shape {list(shape)}" + (" by columns" if in_columns else "")
            raise StorageError(self._subject(name), f"is {kind}, not rows of numbers", "save it as a plain array")
        if math.prod(shape) * dtype.itemsize > self._members[f"{name}.npy"].file_size:
            raise self._short(name)
        return Header(shape, dtype)

    def _read(self, name: str, member: IO[bytes], size: int) -> bytes:
        with _typed_errors(self._subject(name)):
            content = member.read(size)
        if len(content) < size:
            raise self._short(name)
        return content

    def _subject(self, name: str) -> str:
        return f"{name} in {self._source}"

    def _short(self, name: str) -> StorageError:
        return StorageError(self._subject(name), "ends before its last row", "get the whole file")


@contextmanager
def _typed_errors(subject: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Damaged, encrypted or foreign content makes zipfile and numpy raise almost anything.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise StorageError(subject, f"cannot be read ({reason})", "give a whole .npz file of numpy") from error
