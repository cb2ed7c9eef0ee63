"""The one client of S3: its settings, retries and typed errors, listings, and an object as a file to read."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import RawIOBase
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError, NoCredentialsError
from botocore.exceptions import ConnectionError as NoConnectionError

from l2c_ray.errors import L2CError, StorageError, UnreachableError
from l2c_ray.storage.addresses import VARIABLES, S3Address
from l2c_ray.storage.objects import PIECE_BYTES, missing, replaced
from l2c_ray.storage.retry import Backoff

# Standard mode with one attempt leaves retries to `_pauses_until`, whose deadline is in seconds. The server compares
# a signed payload with its hash; newer checksum headers are not known to every server.
_CONFIG = Config(
    connect_timeout=5,
    read_timeout=15,
    retries={"mode": "standard", "total_max_attempts": 1},
    s3={"payload_signing_enabled": True},
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)
_TRANSIENT_CODES = {"SlowDown", "RequestTimeout", "OperationAborted", "ConditionalRequestConflict"}
_TRANSIENT_ERRORS = (HTTPClientError, NoConnectionError, IncompleteReadError)
_NEVER_RETRIED = {"AbortMultipartUpload"}
"""Cleaning up after a failure must not wait for the server that failed."""
_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


class S3Client:
    """boto3's client, for the objects under one prefix of one bucket, by their names behind the prefix.

    Args:
        environment: variables of `addresses.VARIABLES`; boto3 looks into its own places for those that are missing.
        retry_seconds: retry deadline of each request, counted from its first failure.

    Raises:
        StorageError: the environment names no server of S3.
    """

    def __init__(self, place: S3Address, environment: Mapping[str, str], retry_seconds: float) -> None:
        self.place = place
        self.environment = {name: environment[name] for name in VARIABLES if environment.get(name)}
        self.retry_seconds = retry_seconds
        self._server = ""
        given = {VARIABLES[name]: value for name, value in self.environment.items()}
        with self.typed_errors():
            # boto3's default session must not be shared between threads.
            self.boto = boto3.session.Session().client("s3", config=_CONFIG, **given)
            self._server = urlsplit(self.boto.meta.endpoint_url).netloc.rpartition("@")[2]
        self.boto.meta.events.register("needs-retry.s3", _pauses_until(retry_seconds))

    def at(self, name: str) -> dict[str, str]:
        """Bucket and key of an object, as arguments of boto3's methods."""
        return {"Bucket": self.place.bucket, "Key": self.place.key_prefix + name}

    def list(self, under: str = "") -> Iterator[tuple[str, int]]:
        """Names of the objects that begin with `under`, with their sizes in bytes."""
        start = self.place.key_prefix + under
        with self.typed_errors():
            for page in self.boto.get_paginator("list_objects_v2").paginate(Bucket=self.place.bucket, Prefix=start):
                for found in page.get("Contents", ()):
                    yield found["Key"].removeprefix(self.place.key_prefix), found["Size"]

    def head(self, name: str) -> dict[str, Any] | None:
        """Headers of an object; None if there is none."""
        with self.typed_errors(name):
            try:
                headers: dict[str, Any] = self.boto.head_object(**self.at(name))
            except ClientError as error:
                if status_of(error) not in (403, 404):
                    raise
                return self._headers_by_get(name)
        return headers

    def _headers_by_get(self, name: str) -> dict[str, Any] | None:
        """As `head`, for an error that has to be told: an answer to HEAD has no body to name the missing bucket in."""
        try:
            headers: dict[str, Any] = self.boto.get_object(**self.at(name))
        except ClientError as error:
            if code_of(error) == "NoSuchKey":
                return None
            raise
        headers.pop("Body").close()
        return headers

    def path(self, name: str) -> str:
        """Address of an object, as errors name it."""
        return f"{self.place.address}/{name}".rstrip("/")

    @contextmanager
    def typed_errors(self, name: str = "") -> Iterator[None]:
        """Converts boto3's errors into ones that name the object, and show nothing that a server says about keys.

        Raises:
            StorageError: S3 refuses the request or cannot be used.
            UnreachableError: S3 does not answer or does not work at present.
        """
        try:
            yield
        except (ClientError, BotoCoreError, ValueError) as error:
            # ValueError: an invalid endpoint or region.
            raise _typed(error, self.path(name), self._server) from error


class ObjectFile(RawIOBase):
    """One version of an object as a seekable file; a broken connection costs only the bytes that did not arrive.

    boto3 has no such file, and s3fs would bring a second client (aiobotocore).

    Reads raise a `StorageError` if the object was removed or replaced, an `UnreachableError` after the retry deadline.
    """

    def __init__(self, client: S3Client, name: str, size: int, etag: str) -> None:
        super().__init__()
        self._client = client
        self._name = name
        self._size = size
        self._etag = etag
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Reads at least one byte unless the position is at the end; the rest of the buffer may stay unfilled."""
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._position)]
        backoff = Backoff(self._client.retry_seconds)
        count, broken = 0, None
        with self._client.typed_errors(self._name):
            while view and not count:
                if broken is not None:
                    pause = backoff.pause_after(broken)
                    if pause is None:
                        raise broken
                    time.sleep(pause)
                count, broken = _receive(self._request(len(view)), view)
        self._position += count
        return count

    def _request(self, count: int) -> Any:
        """Body of the answer to a request of the next `count` bytes."""
        wanted = f"bytes={self._position}-{self._position + count - 1}"
        try:
            return self._client.boto.get_object(**self._client.at(self._name), IfMatch=self._etag, Range=wanted)["Body"]
        except ClientError as error:
            if code_of(error) == "NoSuchKey":
                raise missing(self._client.path(self._name)) from error
            if status_of(error) in (412, 416):
                raise replaced(self._client.path(self._name)) from error
            raise


def _receive(body: Any, view: memoryview) -> tuple[int, Exception | None]:
    """Number of bytes of the body that arrived in the view, and the error that ended it early."""
    count = 0
    try:
        for piece in body.iter_chunks(PIECE_BYTES):
            view[count : count + len(piece)] = piece
            count += len(piece)
    except _TRANSIENT_ERRORS as error:
        return count, error
    return count, None


def status_of(error: ClientError) -> int:
    """HTTP status of S3's answer; 0 if unknown."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: ClientError) -> str:
    """S3's name for the error, for instance `NoSuchKey`."""
    return str(error.response["Error"].get("Code"))


def _pauses_until(retry_seconds: float) -> Callable[..., float | None]:
    """A handler of botocore's event `needs-retry`: seconds until the next attempt, None for no further attempt."""

    def pause(
        operation: Any, request_dict: dict[str, Any], response: Any, caught_exception: Exception | None, **_: Any
    ) -> float | None:
        error = caught_exception
        if response is not None and "Error" in response[1]:
            error = ClientError(response[1], operation.name)
        if error is None or not _is_transient(error) or operation.name in _NEVER_RETRIED:
            return None
        backoff: Backoff = request_dict["context"].setdefault("l2c_backoff", Backoff(retry_seconds))
        return backoff.pause_after(error)

    return pause


def _is_transient(error: Exception) -> bool:
    if isinstance(error, ClientError):
        status, code = status_of(error), code_of(error)
        return status == 429 or (status >= 500 and code != "NotImplemented") or code in _TRANSIENT_CODES
    return isinstance(error, _TRANSIENT_ERRORS)


def _typed(error: Exception, subject: str, server: str) -> L2CError:
    if isinstance(error, ClientError):
        code = code_of(error)
        if _is_transient(error):
            return UnreachableError(subject, f"S3 at {server} does not work ({code})", "try again later")
        if status_of(error) == 403:
            remedy = f"check {_KEYS}, and what their owner may do"
            return StorageError(subject, f"S3 does not let you in ({code})", remedy)
        problem = f"S3 refuses it ({code}: {error.response['Error'].get('Message')})"
        return StorageError(subject, problem, "check the bucket and the AWS_* variables")
    if _is_transient(error):
        problem = f"S3 does not answer at {server} ({type(error).__name__})"
        return UnreachableError(subject, problem, "check AWS_ENDPOINT_URL, or try again later")
    if isinstance(error, NoCredentialsError):
        return StorageError(subject, "there are no keys for S3", f"set {_KEYS}")
    return StorageError(subject, f"S3 cannot be used ({error})", "set the AWS_* variables")
