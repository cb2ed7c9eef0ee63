"""Whole objects under one address, which is a folder or a prefix in a bucket of S3."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple
from uuid import uuid4

from l2c_ray.errors import StorageError, UnreachableError
from l2c_ray.storage import addresses, files
from l2c_ray.storage.addresses import environment
from l2c_ray.storage.patience import Patience

__all__ = ["PATIENCE_SECONDS", "Found", "ObjectStore", "environment", "open_store"]

PATIENCE_SECONDS = 60.0
"""How long S3 may give nothing before it counts as away; an attempt that has begun by then takes up to 20 s more."""

_PIECE_BYTES = 1 << 20


class Found(NamedTuple):
    """What a store says of an object."""

    size: int
    """Bytes."""
    version: str
    """Another one when the object is replaced."""
    digests: dict[str, str]
    """What its content hashes to, by hashlib's name for the function and in hex; empty where nobody knows."""


class ObjectStore(ABC):
    """Objects by name, for instance `runs/first/settings.json`; one that is there is there whole.

    Every method raises a `StorageError` where the place is not there or not this user's, or a name would lead out of
    it. Where no server answers, work goes on when it comes back in time, and else ends with an `UnreachableError`.
    """

    address: str
    patience: float = PATIENCE_SECONDS
    """Seconds without progress after which a server is given up."""

    @abstractmethod
    def names(self, under: str = "") -> set[str]:
        """Of all objects, nested ones too, or of those whose names begin with `under` and a slash."""

    @abstractmethod
    def find(self, name: str) -> Found | None:
        """What there is of this name, if anything."""

    @abstractmethod
    def put(self, name: str, content: bytes | Path) -> None:
        """Writes the object, in place of one of this name: bytes, or what a file holds.

        When it returns the store has confirmed every byte. If it fails the object is what it was before. A process that
        is killed meanwhile may leave parts in S3 that nobody sees, which a lifecycle rule of the bucket removes.
        """

    @abstractmethod
    def put_new(self, name: str, content: bytes) -> bool:
        """Writes the object if there is none of this name; whether it did.

        Of several that try at the same moment exactly one succeeds in a folder, and on servers that decide in one go,
        as S3 does. Others (Swift) look first and write then, and more than one may succeed in the time between.

        Raises:
            StorageError: the server knows no such condition. There is no way around it that would not lose an object
                to another writer now and then.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Removes the object, if it is there."""

    def get(self, name: str) -> bytes:
        """The object's content, compared with what it should hash to where the store knows that.

        Raises:
            StorageError: it is missing or damaged, or was replaced while it was read.
        """
        content = BytesIO()
        found = self._receive(name, None, content)
        if any(_hash(content, function) != digest for function, digest in found.digests.items()):
            raise self._damaged(name)
        return content.getvalue()

    def download(self, name: str, path: Path) -> str:
        """The object's content as a file, which appears whole; gives its sha256 in hex.

        What an earlier attempt left is gone on with, if the object is still the same. One process at a time works on
        the file. Content is compared as by `get`.

        Raises:
            StorageError: the object is missing or damaged, was replaced while it was read, or the file cannot be
                written, in which case nothing is left of it.
        """
        found = self.find(name)
        if found is None:
            raise self._missing(name)
        files.make_writable(path.parent)
        # Of a length that any file system takes.
        stem = f"{addresses.UNFINISHED}{_short(path.name)}"
        partial = path.with_name(f"{stem}-{_short(f'{self.address}/{name} {found.version}')}")
        with files.locked(path.with_name(f"{stem}.lock")), files.cannot_be_written(path):
            for other in path.parent.glob(f"{stem}-*"):
                if other != partial:
                    other.unlink(missing_ok=True)
            return self._complete(name, found, partial, path)

    def check_writable(self) -> None:
        """Writes an object and removes it again.

        Raises:
            StorageError: it cannot.
        """
        name = f"check-{uuid4().hex}"
        self.put(name, b"")
        self.delete(name)

    @abstractmethod
    def _open(self, name: str, found: Found | None, start: int) -> tuple[Found, Iterator[bytes]]:
        """The object and its content from a byte on; `StorageError` if it is not the one that was found before."""

    def _complete(self, name: str, found: Found, partial: Path, path: Path) -> str:
        resumed = partial.exists()
        try:
            with partial.open("ab+") as file:
                if file.tell() > found.size:
                    file.seek(0)
                    file.truncate()
                self._receive(name, found, file)
                hashes = {function: _hash(file, function) for function in ("sha256", *found.digests)}
                if file.tell() == found.size and found.digests.items() <= hashes.items():
                    files.finish(file, partial, path)
                    return hashes["sha256"]
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        partial.unlink()
        if not resumed:
            raise self._damaged(name)
        # What was left of the earlier attempt may be to blame.
        return self._complete(name, found, partial, path)

    def _receive(self, name: str, found: Found | None, sink: IO[bytes]) -> Found:
        """Writes to the sink what it lacks."""
        patience = Patience(self.patience)
        while found is None or sink.tell() < found.size:
            try:
                found, pieces = self._open(name, found, sink.tell())
                for piece in pieces:
                    sink.write(piece)
                    patience.renew()
            except UnreachableError as error:
                patience.wait(error)
        return found

    def _missing(self, name: str) -> StorageError:
        return StorageError(f"{self.address}/{name}", "is not there", "check the name")

    def _damaged(self, name: str) -> StorageError:
        return StorageError(f"{self.address}/{name}", "is not what was put there: its hash is another", "put it again")

    def _replaced(self, name: str) -> StorageError:
        return StorageError(f"{self.address}/{name}", "was replaced while it was read", "read it again")


def open_store(
    address: str, environment: Mapping[str, str] = os.environ, patience: float = PATIENCE_SECONDS
) -> ObjectStore:
    """The store at a folder's path, which need not be there yet, or at `s3://bucket/prefix`.

    Args:
        environment: where AWS_ENDPOINT_URL, AWS_REGION and the keys are looked up; for what is not there boto3 looks
            into its own places.
        patience: seconds without progress after which a server is given up.

    Raises:
        StorageError: it is no such address.
    """
    if "://" not in address:
        from l2c_ray.storage.folder import Folder

        return Folder(files.expanded(address))
    # Loading boto3 takes half a second, which whoever uses folders need not wait for.
    from l2c_ray.storage.bucket import Bucket

    return Bucket(addresses.parse_s3(address), environment, patience)


def _hash(content: IO[bytes], function: str) -> str:
    """In hex, of all of the content, at whose end this leaves it."""
    content.seek(0)
    state = hashlib.new(function, usedforsecurity=False)
    while piece := content.read(_PIECE_BYTES):
        state.update(piece)
    return state.hexdigest()


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
