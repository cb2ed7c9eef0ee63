"""Files of others below one address, a folder or a prefix in a bucket of S3, listed and streamed."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
from pyarrow import fs

from l2c_ray.errors import StorageError, UnreachableError
from l2c_ray.storage.addresses import parse_s3

_SECONDS_TO_CONNECT = 10
_SECONDS_TO_ANSWER = 60
_ATTEMPTS = 9
"""The client doubles its pauses, up to 20 s: a server that refuses connections may be away for about a minute."""
_AWAY = re.compile(r"NETWORK_CONNECTION|SERVICE_UNAVAILABLE|SLOW_DOWN|REQUEST_TIMEOUT|INTERNAL_FAILURE|[Tt]imeout")
"""How the client calls an error of a server that is away, or does not work just now."""


class FileTree:
    """What is below a folder's path or `s3://bucket/prefix`; it is only read.

    Every method raises a `StorageError` where the place is not there or not this user's, and an `UnreachableError`
    where it has not answered for a while.
    """

    def __init__(self, address: str, environment: Mapping[str, str] = os.environ) -> None:
        """Nothing is read yet.

        Args:
            environment: where AWS_ENDPOINT_URL, AWS_REGION and the keys are looked up; for what is not there the S3
                client looks into its own places.

        Raises:
            StorageError: it is no such address.
        """
        self.address = address.rstrip("/")
        if "://" not in address:
            self._system: fs.FileSystem = fs.LocalFileSystem()
            self._root = str(Path(address).expanduser().absolute())
            return
        bucket, prefix = parse_s3(address)
        with self._typed_errors(self.address):
            self._system = _s3(environment)
        self._root = f"{bucket}/{prefix}".rstrip("/")

    def files(self, deep: bool = False) -> dict[str, int]:
        """Sizes of the files directly below the address, or at any depth, by their names with slashes; sorted."""
        return {name: info.size for name, info in self._found(fs.FileType.File, deep)}

    def folders(self) -> list[str]:
        """Names of the folders directly below the address, also empty ones; sorted."""
        return [name for name, _ in self._found(fs.FileType.Directory, deep=False)]

    def read(self, name: str) -> bytes:
        with self._typed_errors(f"{self.address}/{name}"), self._system.open_input_stream(self._path(name)) as stream:
            return cast(bytes, stream.read())

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """The file for reading from any place in it, as pyarrow and the standard library take it."""
        with self._typed_errors(f"{self.address}/{name}"), self._system.open_input_file(self._path(name)) as file:
            yield file

    @contextmanager
    def stream(self, name: str) -> Iterator[IO[bytes]]:
        """The file for reading from its beginning to its end."""
        with self._typed_errors(f"{self.address}/{name}"), self._system.open_input_stream(self._path(name)) as file:
            yield file

    def _found(self, kind: fs.FileType, deep: bool) -> list[tuple[str, fs.FileInfo]]:
        """By name, without those that are hidden or in a hidden folder."""
        with self._typed_errors(self.address):
            found = self._system.get_file_info(fs.FileSelector(self._root, recursive=deep))
        named = [(info.path[len(self._root) + 1 :], info) for info in found if info.type == kind]
        named.sort(key=lambda each: each[0])
        return [(name, info) for name, info in named if not any(part.startswith(".") for part in name.split("/"))]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _typed_errors(self, subject: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            reason = str(error.strerror if isinstance(error, OSError) and error.strerror else error).splitlines()[0]
            remedy = "check the path" if "://" not in self.address else "check the bucket and the AWS_* variables"
            if "://" in self.address and _AWAY.search(str(error)):
                raise UnreachableError(subject, f"S3 does not answer ({reason})", "try again later") from error
            raise StorageError(subject, f"cannot be read ({reason})", remedy) from error


def _s3(environment: Mapping[str, str]) -> fs.S3FileSystem:
    """A client that finds the same server and keys as `l2c_ray.storage.objects`."""
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
