"""Whole objects by name: the interface of folders and of buckets of S3."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple
from uuid import uuid4

from l2c_ray.errors import StorageError
from l2c_ray.storage import files

PIECE_BYTES = 1 << 20
"""Size of the pieces in which content is copied."""
_READS = 5
"""Attempts to read an object that other processes replace at the same time."""


class ReplacedError(StorageError):
    """An object was replaced while it was read."""


class Found(NamedTuple):
    """An object as its store describes it."""

    size: int
    """Bytes."""
    version: str
    """Changes whenever the object is replaced."""
    digests: dict[str, str]
    """Hashes of its content in hex, by hashlib's name of the function; empty where the store knows none."""


class ObjectStore(ABC):
    """Objects by name, for instance `runs/first/settings.json`; an object appears whole or not at all.

    Every method raises a `StorageError` if the place is missing, not this user's, or a name would lead out of it, and
    an `UnreachableError` if the server is away until the retry deadline.
    """

    address: str

    @abstractmethod
    def names(self, under: str = "") -> set[str]:
        """Names of all objects, nested ones too, or of those that begin with `under` and a slash."""

    @abstractmethod
    def find(self, name: str) -> Found | None:
        """The object of this name; None if there is none."""

    @abstractmethod
    def put(self, name: str, content: bytes | Path) -> None:
        """Writes the object, in place of one of this name: bytes, or the content of a file.

        Returns after the store has confirmed every byte. After a failure the object is as before. A process that is
        killed may leave invisible parts in S3, which a lifecycle rule of the bucket removes.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Removes the object if it is there."""

    def get(self, name: str, most: int | None = None) -> bytes:
        """The object's content, compared with its hash if the store knows one.

        An object that is replaced meanwhile is read again.

        Raises:
            StorageError: it is missing or damaged, has more than `most` bytes, or is replaced again and again.
        """
        for _ in range(_READS - 1):
            with suppress(ReplacedError):
                return self._read(name, most)
        return self._read(name, most)

    def download(self, name: str, path: Path) -> None:
        """Copies the object to a file, which appears whole; its content is compared with its hash as by `get`.

        Raises:
            StorageError: the object is missing, damaged or was replaced, or the file cannot be written.
        """
        with files.writing(path) as file:
            self._copy(name, file)

    def check_writable(self) -> None:
        """Writes an object and removes it.

        Raises:
            StorageError: it cannot be written.
        """
        name = f"check-{uuid4().hex}"
        self.put(name, b"")
        self.delete(name)

    @abstractmethod
    def _pieces(self, name: str, found: Found) -> Iterator[bytes]:
        """Content of the object that was found; raises a `StorageError` if it was replaced since."""

    def _read(self, name: str, most: int | None) -> bytes:
        content = BytesIO()
        self._copy(name, content, most)
        return content.getvalue()

    def _copy(self, name: str, sink: IO[bytes], most: int | None = None) -> None:
        subject = f"{self.address}/{name}"
        found = self.find(name)
        if found is None:
            raise missing(subject)
        if most is not None and found.size > most:
            problem = f"has {found.size} bytes, more than the {most} that are expected at most"
            raise StorageError(subject, problem, "check the address")
        hashes = {function: hashlib.new(function, usedforsecurity=False) for function in found.digests}
        size = 0
        for piece in self._pieces(name, found):
            sink.write(piece)
            size += len(piece)
            for state in hashes.values():
                state.update(piece)
        if size != found.size or any(hashes[each].hexdigest() != digest for each, digest in found.digests.items()):
            raise StorageError(subject, "is not what was put there: its hash is another", "put it again")


def missing(subject: str) -> StorageError:
    """Error for an object that is not there."""
    return StorageError(subject, "is not there", "check the name")


def replaced(subject: str) -> ReplacedError:
    """Error for an object of which another version appeared during a read."""
    return ReplacedError(subject, "was replaced while it was read", "read it again")
