"""Files of others in a bucket of S3, or of a server that speaks its protocol."""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import IO, cast

from pyarrow import fs

from l2c_ray.errors import L2CError, StorageError, UnreachableError
from l2c_ray.storage.addresses import parse_s3
from l2c_ray.storage.trees import Entry, FileTree

_SECONDS_TO_CONNECT = 10
_SECONDS_TO_ANSWER = 60
_ATTEMPTS = 9
"""The client doubles its pauses, up to 20 s: a server that refuses connections may be away for about a minute."""
_AWAY = re.compile(r"NETWORK_CONNECTION|SERVICE_UNAVAILABLE|SLOW_DOWN|REQUEST_TIMEOUT|INTERNAL_FAILURE|[Tt]imeout")
"""How the client calls an error of a server that is away, or does not work just now."""


class BucketTree(FileTree):
    """Objects under a prefix, by Arrow's client, which reads the parts of an object that are asked for."""

    def __init__(self, address: str, environment: Mapping[str, str]) -> None:
        """Nothing is read yet.

        Raises:
            StorageError: it is no address of S3.
        """
        self.address = address.rstrip("/")
        bucket, prefix = parse_s3(address)
        with self._typed_errors(self.address):
            self._system = _client(environment)
        self._root = f"{bucket}/{prefix}".rstrip("/")

    def _entries(self, pattern: str) -> Iterator[Entry]:
        for info in self._system.get_file_info(fs.FileSelector(self._root, recursive=True)):
            name = info.path[len(self._root) + 1 :]
            if info.type == fs.FileType.Directory:
                yield Entry(name, "folder")
            else:
                yield Entry(name, "file", info.size)

    def _open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        return cast("AbstractContextManager[IO[bytes]]", self._system.open_input_file(f"{self._root}/{name}"))

    def _stream(self, name: str) -> AbstractContextManager[IO[bytes]]:
        return cast("AbstractContextManager[IO[bytes]]", self._system.open_input_stream(f"{self._root}/{name}"))

    def _typed(self, subject: str, reason: str, error: Exception) -> L2CError:
        if not isinstance(error, OSError):
            return super()._typed(subject, reason, error)
        if _AWAY.search(str(error)):
            return UnreachableError(subject, f"S3 does not answer ({reason})", "try again later")
        return StorageError(subject, f"cannot be read ({reason})", "check the bucket and the AWS_* variables")


def _client(environment: Mapping[str, str]) -> fs.S3FileSystem:
    """Finds the same server and keys as `l2c_ray.storage.objects`."""
    given = {
        "endpoint_override": environment.get("AWS_ENDPOINT_URL_S3", environment.get("AWS_ENDPOINT_URL")),
        "region": environment.get("AWS_REGION", environment.get("AWS_DEFAULT_REGION")),
        "access_key": environment.get("AWS_ACCESS_KEY_ID"),
        "secret_key": environment.get("AWS_SECRET_ACCESS_KEY"),
        "session_token": environment.get("AWS_SESSION_TOKEN"),
    }
    return fs.S3FileSystem(
        connect_timeout=_SECONDS_TO_CONNECT,
        request_timeout=_SECONDS_TO_ANSWER,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        **{key: value for key, value in given.items() if value},
    )
