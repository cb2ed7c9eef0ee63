"""Files of others in a bucket of S3, or of a server that speaks its protocol."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from typing import IO

from l2c_ray.errors import StorageError
from l2c_ray.storage.addresses import S3Address
from l2c_ray.storage.objects import PIECE_BYTES, missing
from l2c_ray.storage.s3 import ObjectFile, S3Client
from l2c_ray.storage.trees import Entry, FileTree


class BucketTree(FileTree):
    """Objects under a prefix, of which only the ranges that are read are transferred.

    Raises:
        StorageError: the environment names no server of S3. Nothing is asked of one yet.
    """

    def __init__(self, place: S3Address, environment: Mapping[str, str], retry_seconds: float) -> None:
        self.address = place.address
        self._s3 = S3Client(place, environment, retry_seconds)

    def _entries(self, pattern: str) -> list[Entry]:
        entries: dict[str, Entry] = {}
        for name, size in self._s3.list():
            folder = name.rpartition("/")[0]
            while folder and folder not in entries:
                entries[folder] = Entry(folder, "folder")
                folder = folder.rpartition("/")[0]
            # An object that stands for a folder has a name that ends in a slash.
            if name and not name.endswith("/"):
                entries[name] = Entry(name, "file", size)
        if not entries:
            raise StorageError(self.address, "has no object in it", "check the bucket and the prefix")
        return list(entries.values())

    @contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        headers = self._s3.head(name)
        if headers is None:
            raise missing(self.path(name))
        content = ObjectFile(self._s3, name, headers["ContentLength"], headers["ETag"])
        with BufferedReader(content, PIECE_BYTES) as file:
            yield file
