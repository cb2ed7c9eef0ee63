"""Valid addresses of objects, valid names under them, and the variables that say where S3 is."""

import os
import re
from typing import NamedTuple

from l2c_ray.errors import StorageError

UNFINISHED = ".writing-"
"""Prefix of the names of unfinished files; no name of an object begins with it."""

VARIABLES = {
    "AWS_ENDPOINT_URL": "endpoint_url",
    "AWS_ENDPOINT_URL_S3": "endpoint_url",
    "AWS_DEFAULT_REGION": "region_name",
    "AWS_REGION": "region_name",
    "AWS_ACCESS_KEY_ID": "aws_access_key_id",
    "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
    "AWS_SESSION_TOKEN": "aws_session_token",
}
"""Variables that say where S3 is, with boto3's names of the settings; the later of two for one setting counts."""

_S3 = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")
_LONGEST_NAME = 1024
"""Length limit of a key in S3, in bytes."""


class S3Address(NamedTuple):
    """A bucket and a prefix of keys: empty, or a name without a slash at its end."""

    bucket: str
    prefix: str

    @property
    def address(self) -> str:
        """In the form `s3://bucket/prefix`."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def key_prefix(self) -> str:
        """Prefix of the keys, with a slash at its end unless it is empty."""
        return f"{self.prefix}/" if self.prefix else ""


def parse_s3(address: str) -> S3Address:
    """The parts of `s3://bucket/prefix`.

    Raises:
        StorageError: it is not such an address.
    """
    match = _S3.fullmatch(address)
    prefix = (match[2] or "").removesuffix("/") if match else ""
    if not match or (prefix and _fault(prefix)):
        raise StorageError(address, "is no address of objects", "give a folder or s3://bucket/prefix")
    return S3Address(match[1], prefix)


def check_name(address: str, name: str) -> str:
    """The name, checked to be that of an object under the address: parts between slashes, none of which leads out.

    Raises:
        StorageError: it is not such a name; names it and the address.
    """
    fault = _fault(name)
    if fault:
        raise StorageError(f"{name!r} under {address}", f"is no name of an object: {fault}", "give another name")
    return name


def is_name(name: str) -> bool:
    """Whether the name is valid for an object."""
    return not _fault(name)


def environment() -> dict[str, str]:
    """Variables of this process with which another one reaches the same S3."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def _fault(name: str) -> str | None:
    parts = name.split("/")
    if not all(parts):
        return "it or one of its parts is empty"
    if any(part in (".", "..") for part in parts):
        return "it has . or .. as a part"
    if any(part.startswith(UNFINISHED) for part in parts):
        return f"{UNFINISHED} begins the names of what is being written"
    if not name.isprintable():
        return "it has a character that cannot be seen"
    if len(name.encode()) > _LONGEST_NAME:
        return f"it has more than {_LONGEST_NAME} bytes"
    return None
