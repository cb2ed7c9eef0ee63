"""Objects in a bucket of S3, or of a server that speaks its protocol."""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from l2c_ray.errors import StorageError
from l2c_ray.storage import addresses, files
from l2c_ray.storage.addresses import S3Address
from l2c_ray.storage.objects import Found, ObjectStore, open_store
from l2c_ray.storage.patience import patiently
from l2c_ray.storage.s3_errors import code_of, status_of, typed_errors

PART_BYTES = 8 << 20
"""What is larger goes up in parts of at least this size: a connection that breaks costs one of them."""

_MOST_PARTS = 10_000
_PIECE_BYTES = 1 << 20
_SHA256 = "sha256"
"""In the metadata of every object that is put here."""

# Attempts are counted here alone. Hashes go along as Content-MD5, since not every server knows newer headers.
_NETWORK = Config(
    connect_timeout=5,
    read_timeout=15,
    retries={"total_max_attempts": 1},
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)

Result = TypeVar("Result")


class Bucket(ObjectStore):
    """Objects under a prefix of a bucket."""

    def __init__(self, place: S3Address, environment: Mapping[str, str], patience: float) -> None:
        """Connects to nothing yet.

        Raises:
            StorageError: the environment names no server of S3.
        """
        self.address = f"s3://{place.bucket}/{place.prefix}".rstrip("/")
        self.patience = patience
        self._bucket = place.bucket
        self._prefix = f"{place.prefix}/" if place.prefix else ""
        self._server = ""
        self._keeps_conditions = False
        self._environment = {name: environment[name] for name in addresses.VARIABLES if environment.get(name)}
        given = {addresses.VARIABLES[name]: value for name, value in self._environment.items()}
        with self._typed_errors():
            # A session of its own, since boto3's common one is not for several threads.
            self._client = boto3.session.Session().client("s3", config=_NETWORK, **given)
            self._server = urlsplit(self._client.meta.endpoint_url).netloc.rpartition("@")[2]

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process that gets the store reaches it with the same keys."""
        return open_store, (self.address, self._environment, self.patience)

    def names(self, under: str = "") -> set[str]:
        start = self._prefix + (f"{addresses.check_name(self.address, under)}/" if under else "")
        names = (key.removeprefix(self._prefix) for key in self._keys(start))
        # Others make objects that stand for folders; their names end in a slash.
        return {name for name in names if addresses.is_name(name)}

    def find(self, name: str) -> Found | None:
        at = self._at(name)

        def look() -> Found | None:
            try:
                return _found(self._client.head_object(**at))
            except ClientError as error:
                if status_of(error) == 404:
                    return None
                raise

        return self._patiently(name, look)

    def put(self, name: str, content: bytes | Path) -> None:
        at = self._at(name)
        with BytesIO(content) if isinstance(content, bytes) else files.opened(content) as file:
            plan = _Plan.of(file)
            if len(plan.md5s) == 1:
                self._put_whole(name, at, file.read(), plan)
            else:
                self._put_in_parts(name, at, file, plan)

    def put_new(self, name: str, content: bytes) -> bool:
        at = self._at(name)
        # Also a server that knows no conditions loses nothing that is there by now.
        if self.find(name) is not None:
            return False
        plan = _Plan.of(BytesIO(content), in_parts=False)
        answer = self._put_whole(name, at | {"IfNoneMatch": "*"}, content, plan)
        if not answer.made:
            # The condition may have failed for what an attempt put whose answer was lost.
            there = None if answer.at_once else self.find(name)
            return there is not None and there.digests.get(_SHA256) == plan.sha256
        if not self._keeps_conditions:
            # Proved once for each store: now that it is there, the same has to be refused.
            if self._put_whole(name, at | {"IfNoneMatch": "*"}, content, plan).made:
                problem = f"S3 at {self._server} knows no If-None-Match, by which writers keep apart"
                raise StorageError(self.address, problem, "use another server or a folder")
            self._keeps_conditions = True
        return True

    def delete(self, name: str) -> None:
        at = self._at(name)
        self._patiently(name, lambda: self._client.delete_object(**at))

    def _open(self, name: str, found: Found | None, start: int) -> tuple[Found, Iterator[bytes]]:
        asked = self._at(name)
        if found:
            asked["IfMatch"] = f'"{found.version}"'
        if start:
            asked["Range"] = f"bytes={start}-"
        with self._typed_errors(name):
            try:
                answer = self._client.get_object(**asked)
            except ClientError as error:
                if code_of(error) == "NoSuchKey":
                    raise self._missing(name) from error
                if status_of(error) in (412, 416):
                    raise self._replaced(name) from error
                raise
        there = _found(answer, start)
        if found and (there.version, there.size) != (found.version, found.size):
            raise self._replaced(name)
        return there, self._pieces(name, answer["Body"])

    def _pieces(self, name: str, body: Any) -> Iterator[bytes]:
        with self._typed_errors(name):
            # Raises where the body ends before its Content-Length.
            yield from body.iter_chunks(_PIECE_BYTES)

    def _keys(self, start: str) -> Iterator[str]:
        """Those that begin so, page by page."""
        at = {"Bucket": self._bucket, "Prefix": start}
        while True:
            page = self._patiently("", partial(self._client.list_objects_v2, **at))
            yield from (found["Key"] for found in page.get("Contents", ()))
            if not page["IsTruncated"]:
                return
            at["ContinuationToken"] = page["NextContinuationToken"]

    def _put_whole(self, name: str, at: Mapping[str, str], content: bytes, plan: "_Plan") -> "_Answer":
        attempts = 0

        def put() -> bool:
            nonlocal attempts
            attempts += 1
            try:
                answer = self._client.put_object(
                    **at, Body=content, ContentMD5=_in_header(plan.md5s[0]), Metadata={_SHA256: plan.sha256}
                )
            except ClientError as error:
                if status_of(error) == 412:
                    return False
                raise
            self._confirm(name, answer, plan.md5s[0])
            return True

        return _Answer(self._patiently(name, put), attempts == 1)

    def _put_in_parts(self, name: str, at: Mapping[str, str], file: IO[bytes], plan: "_Plan") -> None:
        begun = self._patiently(
            name, lambda: self._client.create_multipart_upload(**at, Metadata={_SHA256: plan.sha256})
        )
        at = {**at, "UploadId": begun["UploadId"]}
        try:
            parts = [
                self._put_part(name, at, number, file.read(plan.part_bytes), md5)
                for number, md5 in enumerate(plan.md5s, start=1)
            ]
            self._join(name, at, parts, plan)
        except BaseException:
            # Or the server would keep, and charge for, parts that nobody sees.
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**at)
            raise

    def _put_part(
        self, name: str, at: Mapping[str, str], number: int, content: bytes, md5: bytes
    ) -> dict[str, str | int]:
        def put() -> dict[str, str | int]:
            answer = self._client.upload_part(**at, PartNumber=number, Body=content, ContentMD5=_in_header(md5))
            self._confirm(name, answer, md5)
            return {"PartNumber": number, "ETag": answer["ETag"]}

        return self._patiently(name, put)

    def _join(self, name: str, at: Mapping[str, str], parts: list[dict[str, str | int]], plan: "_Plan") -> None:
        def join() -> None:
            try:
                self._client.complete_multipart_upload(**at, MultipartUpload={"Parts": parts})
            except ClientError as error:
                # An attempt whose answer was lost may have joined them; what is there tells.
                if code_of(error) != "NoSuchUpload":
                    raise

        self._patiently(name, join)
        there = self.find(name)
        if there is None or (there.size, there.digests.get(_SHA256)) != (plan.size, plan.sha256):
            raise self._not_confirmed(name)

    def _confirm(self, name: str, answer: Mapping[str, Any], md5: bytes) -> None:
        """Compares what the server has with what was sent."""
        if _is_md5_of_content(answer) and _version(answer) != md5.hex():
            raise self._not_confirmed(name)

    def _not_confirmed(self, name: str) -> StorageError:
        return StorageError(f"{self.address}/{name}", "S3 has other content than was sent", "put it again")

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + addresses.check_name(self.address, name)}

    def _patiently(self, name: str, attempt: Callable[[], Result]) -> Result:
        def once() -> Result:
            with self._typed_errors(name):
                return attempt()

        return patiently(self.patience, once)

    def _typed_errors(self, name: str = "") -> AbstractContextManager[None]:
        return typed_errors(f"{self.address}/{name}".rstrip("/"), self._server)


class _Answer(NamedTuple):
    """Of the server, to a put."""

    made: bool
    """Whether a condition, if there was one, let it be put."""
    at_once: bool
    """To the first attempt."""


class _Plan(NamedTuple):
    """How content goes up, and what it hashes to."""

    size: int
    part_bytes: int
    sha256: str
    md5s: list[bytes]
    """Of each part; content that is small is one part."""

    @classmethod
    def of(cls, file: IO[bytes], in_parts: bool = True) -> "_Plan":
        """Reads the file and goes back to its start. Should it change afterwards, the server sees that."""
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        part_bytes = max(PART_BYTES, -(-size // _MOST_PARTS) if in_parts else size)
        sha256, md5s = hashlib.sha256(), []
        while part := file.read(part_bytes):
            sha256.update(part)
            md5s.append(hashlib.md5(part, usedforsecurity=False).digest())
        file.seek(0)
        return cls(size, part_bytes, sha256.hexdigest(), md5s or [hashlib.md5(usedforsecurity=False).digest()])


def _found(answer: Mapping[str, Any], start: int = 0) -> Found:
    digests = {}
    if re.fullmatch("[0-9a-f]{64}", answer["Metadata"].get(_SHA256, "")):
        digests["sha256"] = answer["Metadata"][_SHA256]
    elif _is_md5_of_content(answer):
        digests["md5"] = _version(answer)
    return Found(start + answer["ContentLength"], _version(answer), digests)


def _version(answer: Mapping[str, Any]) -> str:
    return str(answer["ETag"]).strip('"')


def _is_md5_of_content(answer: Mapping[str, Any]) -> bool:
    """Else it is the hash of parts' hashes, or of something encrypted."""
    encrypted = "SSECustomerAlgorithm" in answer or answer.get("ServerSideEncryption", "AES256") != "AES256"
    return not encrypted and re.fullmatch("[0-9a-f]{32}", _version(answer)) is not None


def _in_header(md5: bytes) -> str:
    return base64.b64encode(md5).decode()
