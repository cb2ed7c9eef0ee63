"""Whole objects under one address, which is a folder or a prefix in a bucket of S3."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnectionError

from l2c_ray.errors import StorageError, UnreachableError
from l2c_ray.storage import files

S3_ADDRESS = r"^s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?$"
"""A bucket and a prefix."""

_TEMPORARY = ".writing-"
_SETTINGS = {
    "AWS_ENDPOINT_URL": "endpoint_url",
    "AWS_ENDPOINT_URL_S3": "endpoint_url",
    "AWS_DEFAULT_REGION": "region_name",
    "AWS_REGION": "region_name",
    "AWS_ACCESS_KEY_ID": "aws_access_key_id",
    "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
    "AWS_SESSION_TOKEN": "aws_session_token",
}
"""Variables by boto3's names for them; of two for one, the later counts."""
_NETWORK = Config(connect_timeout=10, read_timeout=60, retries={"max_attempts": 4, "mode": "standard"})


class ObjectStore(ABC):
    """Objects by name; one that is there is there whole."""

    address: str

    @abstractmethod
    def names(self) -> set[str]:
        """Of all objects directly under the address."""

    @abstractmethod
    def put(self, name: str, content: bytes) -> None:
        """Writes the object, in place of one of this name."""

    @abstractmethod
    def get(self, name: str) -> bytes:
        """The object's content."""


def open_store(address: str, environment: Mapping[str, str] = os.environ) -> ObjectStore:
    """The store at a folder's path, which need not be there yet, or at `s3://bucket/prefix`.

    Every method of the store raises a `StorageError` where the place is not there or not this user's, and an
    `UnreachableError` where no server answers.

    Args:
        environment: where AWS_ENDPOINT_URL, AWS_REGION and the keys are looked up; for what is not there boto3 looks
            into its own places.

    Raises:
        StorageError: it is no such address.
    """
    if "://" not in address:
        return _Folder(Path(address).expanduser().absolute())
    match = re.match(S3_ADDRESS, address)
    if not match:
        raise StorageError(address, "is no address of objects", "give a folder or s3://bucket/prefix")
    return _Bucket(match[1], (match[2] or "").strip("/"), environment)


def environment() -> dict[str, str]:
    """The variables of this process by which another one reaches the same S3."""
    return {name: os.environ[name] for name in _SETTINGS if name in os.environ}


class _Folder(ObjectStore):
    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._path = path

    def names(self) -> set[str]:
        try:
            return {file.name for file in self._path.iterdir() if not file.name.startswith(_TEMPORARY)}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise _unreadable(self.address, error) from error

    def put(self, name: str, content: bytes) -> None:
        files.write_bytes(self._path / name, content)

    def get(self, name: str) -> bytes:
        try:
            return (self._path / name).read_bytes()
        except OSError as error:
            raise _unreadable(str(self._path / name), error) from error


class _Bucket(ObjectStore):
    def __init__(self, bucket: str, prefix: str, environment: Mapping[str, str]) -> None:
        self.address = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        with self._typed_errors(self.address):
            given = {key: environment[name] for name, key in _SETTINGS.items() if name in environment}
            # A session of its own, since boto3's common one is not for several threads.
            self._client = boto3.session.Session().client("s3", config=_NETWORK, **given)

    def names(self) -> set[str]:
        with self._typed_errors(self.address):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
            )
            return {found["Key"].removeprefix(self._prefix) for page in pages for found in page.get("Contents", ())}

    def put(self, name: str, content: bytes) -> None:
        with self._typed_errors(f"{self.address}/{name}"):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content)

    def get(self, name: str) -> bytes:
        with self._typed_errors(f"{self.address}/{name}"):
            content: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read()
            return content

    @contextmanager
    def _typed_errors(self, subject: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code, message = error.response["Error"].get("Code"), error.response["Error"].get("Message")
            if error.response["ResponseMetadata"].get("HTTPStatusCode", 0) >= 500:
                raise UnreachableError(subject, f"S3 does not work ({code})", "try again later") from error
            remedy = "check the bucket and the AWS_* variables"
            raise StorageError(subject, f"S3 refuses it ({code}: {message})", remedy) from error
        except (HTTPClientError, NoConnectionError) as error:
            raise UnreachableError(subject, f"S3 does not answer ({error})", "check AWS_ENDPOINT_URL") from error
        except (BotoCoreError, ValueError) as error:
            # ValueError: an endpoint or a region that is none.
            raise StorageError(subject, f"S3 cannot be used ({error})", "set the AWS_* variables") from error


def _unreadable(subject: str, error: OSError) -> StorageError:
    return StorageError(subject, f"cannot be read ({error.strerror})", "check the path")
