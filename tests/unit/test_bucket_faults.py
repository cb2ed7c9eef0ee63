"""Lines that break, servers that die or fall silent, wrong keys, and objects that are damaged or replaced."""

import os
import threading
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest
from breaking_line import Line
from real_cluster import PATIENCE, wait_until
from real_object_store import BUCKET, ObjectServer

from l2c_ray.errors import StorageError, UnreachableError
from l2c_ray.storage.bucket import PART_BYTES
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_store


def test_upload_over_a_line_that_breaks_is_whole(
    over_the_line: Callable[..., ObjectStore], line: Line, content: bytes
) -> None:
    line.requests = [PART_BYTES // 2, PART_BYTES + PART_BYTES // 2]
    over_the_line().put("large", content)
    assert line.requests == []
    assert over_the_line().get("large") == content


def test_download_goes_on_where_the_line_broke(
    over_the_line: Callable[..., ObjectStore], store: ObjectStore, line: Line, content: bytes, tmp_path: Path
) -> None:
    store.put("large", content)
    line.answered, line.answers = 0, [1 << 20, 5 << 20, 3 << 20]
    over_the_line().download("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert line.answers == []
    assert len(content) <= line.answered < len(content) + (1 << 16)


def test_file_of_an_object_that_is_replaced_meanwhile_is_told(
    over_the_line: Callable[..., ObjectStore], store: ObjectStore, line: Line, content: bytes, tmp_path: Path
) -> None:
    told: list[StorageError] = []

    def download() -> None:
        try:
            over_the_line().download("large", tmp_path / "copy")
        except StorageError as error:
            told.append(error)

    replace_while(download, store, line, content)
    assert [error.problem for error in told] == ["was replaced while it was read"]


def test_object_that_is_replaced_while_it_is_read_is_read_again(
    over_the_line: Callable[..., ObjectStore], store: ObjectStore, line: Line, content: bytes
) -> None:
    got: list[bytes] = []
    replace_while(lambda: got.append(over_the_line().get("large")), store, line, content)
    assert got == [content[::-1]]


def replace_while(read: Callable[[], None], store: ObjectStore, line: Line, content: bytes) -> None:
    """Puts another object in place of the one of this content when some of it has been read, and breaks the line."""
    store.put("large", content)
    line.held = 9 << 20
    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: line.answered > 9 << 20)
    store.put("large", content[::-1])
    line.break_off()
    thread.join(PATIENCE)


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_damaged_object_is_refused_and_leaves_no_file(
    object_server: ObjectServer, store: ObjectStore, tmp_path: Path, damage: str
) -> None:
    content = os.urandom(100_000)
    store.put("damaged", content)
    (file,) = [path for path in object_server.disk.rglob("*.data") if path.read_bytes() == content]
    with file.open("r+b") as opened:
        if damage == "truncated":
            opened.truncate(50_000)
        else:
            opened.write(b"other content")
    with pytest.raises(StorageError, match=f"^{store.address}/damaged: is not"):
        store.download("damaged", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("use", ["upload", "download"])
def test_server_that_dies_on_the_way_and_comes_back_costs_nothing(
    object_server: ObjectServer,
    store: ObjectStore,
    over_the_line: Callable[..., ObjectStore],
    line: Line,
    content: bytes,
    tmp_path: Path,
    use: str,
) -> None:
    path = tmp_path / "file"
    if use == "upload":
        path.write_bytes(content)
        # Of the answers to what begins an upload and to its parts.
        line.held, work = 700, partial(over_the_line().put, "large", path)
    else:
        store.put("large", content)
        line.held, work = 9 << 20, partial(over_the_line().download, "large", path)
    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: line.answered > (line.held or 0))
    with object_server.away():
        line.break_off()
        wait_until(lambda: line.refused > 1)
        assert thread.is_alive()
        assert (use == "upload") == path.exists()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert path.read_bytes() == store.get("large") == content


def test_server_that_goes_away_for_good_ends_the_work_in_time(
    object_server: ObjectServer, store: ObjectStore, content: bytes, tmp_path: Path
) -> None:
    store.put("large", content)
    store = open_store(store.address, object_server.environment(), retry_seconds=1)
    with object_server.away():
        for work in _uses(store, tmp_path):
            with pytest.raises(
                UnreachableError, match=f"^{store.address}.*: S3 does not answer at 127.0.0.1:{object_server.port}"
            ):
                work()
    assert not (tmp_path / "copy").exists()


def test_server_that_falls_silent_counts_as_away(object_server: ObjectServer, store: ObjectStore) -> None:
    store = open_store(store.address, object_server.environment(), retry_seconds=0)
    with object_server.silent(), pytest.raises(UnreachableError, match="S3 does not answer"):
        store.put("large", b"content")
    # What it had heard before it fell silent it may do now; putting again is what users are told.
    store.put("large", b"content")
    assert store.get("large") == b"content"


def test_failed_upload_leaves_neither_object_nor_parts(
    object_server: ObjectServer, over_the_line: Callable[..., ObjectStore], line: Line, content: bytes
) -> None:
    line.requests = [PART_BYTES + PART_BYTES // 2]
    with pytest.raises(UnreachableError):
        over_the_line(retry_seconds=0).put("large", content)
    assert over_the_line().find("large") is None
    assert object_server.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []


def test_interrupted_upload_leaves_neither_object_nor_parts(
    object_server: ObjectServer, store: ObjectStore, content: bytes
) -> None:
    parts: list[AWSPreparedRequest] = []

    def interrupt(request: AWSPreparedRequest, **_: Any) -> None:
        parts.append(request)
        if len(parts) == 2:
            raise KeyboardInterrupt

    store._s3.boto.meta.events.register("before-send.s3.UploadPart", interrupt)  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        store.put("large", content)
    assert store.find("large") is None
    assert object_server.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []


def test_content_that_is_changed_on_the_way_is_refused(store: ObjectStore, content: bytes) -> None:
    def change(request: AWSPreparedRequest, **_: Any) -> None:
        request.body = BytesIO(request.body.read()[:-1] + b"x")

    events = store._s3.boto.meta.events  # type: ignore[attr-defined]
    events.register("before-send.s3.PutObject", change)
    events.register("before-send.s3.UploadPart", change)
    for whole in (content, content[:100]):
        with pytest.raises(StorageError, match="SHA256"):
            store.put("changed", whole)
    assert store.find("changed") is None


def test_wrong_keys_are_told_by_the_names_of_their_variables(
    object_server: ObjectServer, prefix: str, tmp_path: Path
) -> None:
    environment = object_server.environment("s3cret-but-wrong")
    for variables in (environment, environment | {"AWS_ACCESS_KEY_ID": "n0body"}):
        for work in _uses(open_store(prefix, variables), tmp_path):
            with pytest.raises(StorageError) as caught:
                work()
            text = str(caught.value)
            assert "S3 does not let you in" in text
            assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in text
            assert not any(secret in text for secret in ("s3cret", "n0body", environment["AWS_ACCESS_KEY_ID"]))


def _uses(store: ObjectStore, folder: Path) -> list[Callable[[], object]]:
    return [
        store.names,
        lambda: store.find("large"),
        lambda: store.get("large"),
        lambda: store.download("large", folder / "copy"),
        lambda: store.put("large", b"content"),
        lambda: store.put("large", b"content" * (PART_BYTES // 4)),
        lambda: store.delete("large"),
    ]
