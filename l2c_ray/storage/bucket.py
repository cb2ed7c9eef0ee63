"""Objects in a bucket of S3, or of a server that speaks its protocol."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from l2c_ray.storage import addresses, files
from l2c_ray.storage.addresses import S3Address
from l2c_ray.storage.objects import Found, ObjectStore
from l2c_ray.storage.s3 import ObjectFile, S3Client, code_of

PART_BYTES = 8 << 20
"""Content of this size or more goes up in parts: a connection that breaks costs one of them."""

# One part at a time, so that an upload takes the memory of one.
_TRANSFER = TransferConfig(
    multipart_threshold=PART_BYTES,
    multipart_chunksize=PART_BYTES,
    use_threads=False,
    preferred_transfer_client="classic",
)
_SHA256 = "sha256"
"""Key of every object's own metadata for the hash of its content."""


class Bucket(ObjectStore):
    """Objects under a prefix of a bucket.

    Raises:
        StorageError: the environment names no server of S3. Nothing is asked of one yet.
    """

    def __init__(self, place: S3Address, environment: Mapping[str, str], retry_seconds: float) -> None:
        self.address = place.address
        self._s3 = S3Client(place, environment, retry_seconds)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process that gets the store reaches it with the same keys."""
        return Bucket, (self._s3.place, self._s3.environment, self._s3.retry_seconds)

    def names(self, under: str = "") -> set[str]:
        listed = self._s3.list(f"{self._checked(under)}/" if under else "")
        # Other programs make objects that stand for folders; their names end in a slash.
        return {name for name, _ in listed if addresses.is_name(name)}

    def find(self, name: str) -> Found | None:
        headers = self._s3.head(self._checked(name))
        return _found(headers) if headers else None

    def put(self, name: str, content: bytes | Path) -> None:
        place = self._s3.at(self._checked(name))
        with BytesIO(content) if isinstance(content, bytes) else files.opened(content) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            with self._s3.typed_errors(name):
                try:
                    self._s3.boto.upload_fileobj(
                        file, **place, ExtraArgs={"Metadata": {_SHA256: sha256}}, Config=_TRANSFER
                    )
                except ClientError as error:
                    # Completing an upload is retried; an earlier attempt may have succeeded without an answer.
                    if code_of(error) != "NoSuchUpload" or not self._holds(name, sha256):
                        raise

    def delete(self, name: str) -> None:
        with self._s3.typed_errors(self._checked(name)):
            self._s3.boto.delete_object(**self._s3.at(name))

    def _pieces(self, name: str, found: Found) -> Iterator[bytes]:
        file = ObjectFile(self._s3, name, found.size, f'"{found.version}"')
        while piece := file.read(PART_BYTES):
            yield piece

    def _holds(self, name: str, sha256: str) -> bool:
        found = self.find(name)
        return found is not None and found.digests.get("sha256") == sha256

    def _checked(self, name: str) -> str:
        return addresses.check_name(self.address, name)


def _found(headers: Mapping[str, Any]) -> Found:
    version = str(headers["ETag"]).strip('"')
    digests = {}
    if re.fullmatch("[0-9a-f]{64}", headers["Metadata"].get(_SHA256, "")):
        digests["sha256"] = headers["Metadata"][_SHA256]
    elif re.fullmatch("[0-9a-f]{32}", version) and not _is_encrypted(headers):
        digests["md5"] = version
    return Found(headers["ContentLength"], version, digests)


def _is_encrypted(headers: Mapping[str, Any]) -> bool:
    """Whether the ETag is no hash of the content because S3 encrypts with a customer's key or one of KMS."""
    return "SSECustomerAlgorithm" in headers or headers.get("ServerSideEncryption", "AES256") != "AES256"
