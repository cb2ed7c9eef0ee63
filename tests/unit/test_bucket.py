"""Objects in a real server of S3's protocol, which checks signatures and hashes as S3 does."""

import hashlib
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from breaking_line import Line
from real_cluster import wait_until
from real_object_store import BUCKET, ObjectServer, running_object_server

from l2c_ray.errors import StorageError, UnreachableError
from l2c_ray.storage import bucket
from l2c_ray.storage.bucket import PART_BYTES
from l2c_ray.storage.objects import ObjectStore, open_store

LARGE = 2 * PART_BYTES + 12345
"""Bytes of three parts."""


@pytest.fixture(scope="module")
def content() -> bytes:
    return os.urandom(LARGE)


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """One of each test's own."""
    return f"s3://{BUCKET}/{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}"


@pytest.fixture
def store(server: ObjectServer, prefix: str) -> ObjectStore:
    return open_store(prefix, server.environment())


@pytest.fixture
def over_the_line(server: ObjectServer, line: Line, prefix: str) -> Callable[..., ObjectStore]:
    """Opens `store` again, over the line and with connections of its own."""
    return partial(open_store, prefix, server.environment(port=line.port))


def test_nested_objects_are_found_read_listed_and_removed(store: ObjectStore) -> None:
    store.put("runs/first/settings.json", b"{}")
    store.put("runs/first/ä b?%+.bin", b"")
    store.put("runs/firstborn", b"other")
    assert store.names() == {"runs/first/settings.json", "runs/first/ä b?%+.bin", "runs/firstborn"}
    assert store.names("runs/first") == {"runs/first/settings.json", "runs/first/ä b?%+.bin"}
    found = store.find("runs/firstborn")
    assert found is not None
    assert found.size == 5
    assert found.digests == {"sha256": hashlib.sha256(b"other").hexdigest()}
    assert store.get("runs/first/ä b?%+.bin") == b""
    store.put("runs/firstborn", b"another")
    assert store.get("runs/firstborn") == b"another"
    store.delete("runs/firstborn")
    store.delete("runs/firstborn")
    assert store.find("runs/firstborn") is None
    with pytest.raises(StorageError, match=r"runs/firstborn: is not there"):
        store.get("runs/firstborn")


def test_objects_beside_the_prefix_are_not_seen(store: ObjectStore, server: ObjectServer, prefix: str) -> None:
    open_store(f"{prefix}-beside", server.environment()).put("a", b"")
    assert store.names() == set()


def test_many_objects_are_listed_over_several_pages(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {f"shard-{number}" for number in range(7)}
    for name in names:
        store.put(name, b"")
    client = store._client  # type: ignore[attr-defined]
    pages: list[int] = []

    def in_small_pages(**asked: str) -> dict[str, Any]:
        page = listed(**asked, MaxKeys=3)
        pages.append(page["KeyCount"])
        return page

    listed = client.list_objects_v2
    monkeypatch.setattr(client, "list_objects_v2", in_small_pages)
    assert store.names() == names
    assert pages == [3, 3, 1]


def test_large_file_goes_up_in_parts_and_comes_back_whole(store: ObjectStore, content: bytes, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "made" / "copy"
    source.write_bytes(content)
    store.put("large", source)
    found = store.find("large")
    assert found is not None
    assert found.version.endswith("-3")
    assert store.download("large", copy) == hashlib.sha256(content).hexdigest()
    assert copy.read_bytes() == content
    assert list(copy.parent.iterdir()) == [copy]


def test_other_writers_objects_are_compared_with_their_md5(server: ObjectServer, store: ObjectStore) -> None:
    _put_as_others_do(server, store, "theirs", b"content")
    found = store.find("theirs")
    assert found is not None
    assert found.digests == {"md5": hashlib.md5(b"content", usedforsecurity=False).hexdigest()}
    assert store.get("theirs") == b"content"


def test_object_is_put_only_if_there_is_none(store: ObjectStore, content: bytes) -> None:
    assert store.put_new("claim", b"first")
    assert not store.put_new("claim", b"second")
    assert store.get("claim") == b"first"
    store.delete("claim")
    assert store.put_new("claim", content)
    assert store.get("claim") == content


def test_claim_whose_answer_is_lost_is_still_ones_own(over_the_line: Callable[..., ObjectStore], line: Line) -> None:
    store = over_the_line()
    assert store.find("claim") is None
    # The first answer says the same, the second to go on; of the third, that it was put, only the beginning arrives.
    line.answers = [line.answered + len(b"HTTP/1.1 100 Continue\r\n\r\n") + len(b"HTTP/1.1 2")]
    store = over_the_line()
    assert store.put_new("claim", b"mine")
    assert line.answers == []
    assert store.get("claim") == b"mine"
    assert not store.put_new("claim", b"other")


def test_server_that_is_busy_while_it_is_tried_out_is_not_refused(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = store._client  # type: ignore[attr-defined]
    put, asked = client.put_object, []

    def busy_once(**request: Any) -> Any:
        asked.append(request)
        if len(asked) == 2:
            busy = {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
            raise ClientError(busy, "PutObject")
        return put(**request)

    monkeypatch.setattr(client, "put_object", busy_once)
    assert store.put_new("claim", b"first")
    assert len(asked) == 3


def test_server_that_overhears_conditions_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    with running_object_server(tmp_path, deaf=True) as deaf:
        store = open_store(f"s3://{BUCKET}", deaf.environment())
        store.put("there", b"first")
        assert not store.put_new("there", b"second")
        with pytest.raises(StorageError, match="knows no If-None-Match"):
            store.put_new("new", b"content")
        assert store.get("there") == b"first"


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
    assert LARGE <= line.answered < LARGE + (1 << 16)


def test_download_that_was_killed_is_gone_on_with_by_another_process(
    server: ObjectServer, store: ObjectStore, line: Line, content: bytes, tmp_path: Path
) -> None:
    store.put("large", content)
    line.held = 9 << 20
    code = "import sys; from pathlib import Path; from l2c_ray.storage.objects import open_store; "
    code += "open_store(sys.argv[1]).download('large', Path(sys.argv[2]))"
    with subprocess.Popen(
        [sys.executable, "-c", code, store.address, str(tmp_path / "copy")],
        env=os.environ | server.environment(port=line.port),
    ) as process:
        wait_until(lambda: line.answered > 9 << 20, timeout=30)
        wait_until(lambda: any(file.stat().st_size >= 8 << 20 for file in tmp_path.iterdir()), timeout=10)
        process.kill()
    assert not (tmp_path / "copy").exists()
    line.held, line.answered = None, 0
    open_store(store.address, server.environment(port=line.port)).download("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert line.answered < LARGE - (8 << 20) + (1 << 16)


def test_what_is_left_of_an_object_that_was_replaced_is_not_gone_on_with(
    over_the_line: Callable[..., ObjectStore], store: ObjectStore, line: Line, content: bytes, tmp_path: Path
) -> None:
    store.put("large", content)
    line.answers = [9 << 20]
    with pytest.raises(UnreachableError):
        over_the_line(patience=0).download("large", tmp_path / "copy")
    assert [file.name.startswith(".writing-") for file in tmp_path.iterdir()] == [True]
    store.put("large", content[::-1])
    store.download("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content[::-1]
    assert list(tmp_path.iterdir()) == [tmp_path / "copy"]


def test_object_that_is_replaced_while_it_is_read_is_told(
    over_the_line: Callable[..., ObjectStore], store: ObjectStore, line: Line, content: bytes, tmp_path: Path
) -> None:
    store.put("large", content)
    line.held = 9 << 20
    told: list[StorageError] = []

    def download() -> None:
        try:
            over_the_line().download("large", tmp_path / "copy")
        except StorageError as error:
            told.append(error)

    thread = threading.Thread(target=download)
    thread.start()
    wait_until(lambda: line.answered > 9 << 20, timeout=30)
    store.put("large", content[::-1])
    line.break_off()
    thread.join(timeout=30)
    assert [error.problem for error in told] == ["was replaced while it was read"]


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_damaged_object_is_refused_and_leaves_no_file(
    server: ObjectServer, store: ObjectStore, tmp_path: Path, damage: str
) -> None:
    content = os.urandom(100_000)
    store.put("damaged", content)
    (file,) = [path for path in server.disk.rglob("*.data") if path.read_bytes() == content]
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
    server: ObjectServer,
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
    wait_until(lambda: line.answered > (line.held or 0), timeout=30)
    with server.away():
        line.break_off()
        time.sleep(1.5)
        assert thread.is_alive()
        assert (use == "upload") == path.exists()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert path.read_bytes() == store.get("large") == content


def test_server_that_goes_away_for_good_ends_the_work_in_time(
    server: ObjectServer, store: ObjectStore, content: bytes, tmp_path: Path
) -> None:
    store.put("large", content)
    store.patience = 1
    with server.away():
        for work in _uses(store, tmp_path):
            start = time.monotonic()
            with pytest.raises(
                UnreachableError, match=f"^{store.address}.*: S3 does not answer at 127.0.0.1:{server.port}"
            ):
                work()
            assert time.monotonic() - start < 1 + 20
    assert not (tmp_path / "copy").exists()


def test_server_that_falls_silent_counts_as_away(server: ObjectServer, store: ObjectStore) -> None:
    store.patience = 1
    with server.silent():
        start = time.monotonic()
        with pytest.raises(UnreachableError, match="S3 does not answer"):
            store.put("large", b"content")
        assert time.monotonic() - start < 1 + 20
    # What it had heard before it fell silent it may do now; putting again is what users are told.
    store.put("large", b"content")
    assert store.get("large") == b"content"


def test_failed_upload_leaves_neither_object_nor_parts(
    server: ObjectServer, over_the_line: Callable[..., ObjectStore], line: Line, content: bytes
) -> None:
    line.requests = [PART_BYTES + PART_BYTES // 2]
    with pytest.raises(UnreachableError):
        over_the_line(patience=0).put("large", content)
    assert over_the_line().find("large") is None
    assert _client(server).list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []


def test_file_that_changes_while_it_goes_up_is_refused(
    store: ObjectStore, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(content)
    plan = bucket._Plan.of

    def plan_then_change(file: object) -> object:
        planned = plan(file)  # type: ignore[arg-type]
        with source.open("r+b") as opened:
            opened.seek(LARGE - 10)
            opened.write(b"x" * 10)
        return planned

    monkeypatch.setattr(bucket._Plan, "of", plan_then_change)
    with pytest.raises(StorageError, match="BadDigest"):
        store.put("large", source)
    assert store.find("large") is None


def test_wrong_keys_are_told_by_the_names_of_their_variables(server: ObjectServer, prefix: str, tmp_path: Path) -> None:
    environment = server.environment("s3cret-but-wrong")
    for variables in (environment, environment | {"AWS_ACCESS_KEY_ID": "n0body"}):
        for work in _uses(open_store(prefix, variables), tmp_path):
            with pytest.raises(StorageError) as caught:
                work()
            text = str(caught.value)
            assert "S3 does not let you in" in text
            assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in text
            assert not any(secret in text for secret in ("s3cret", "n0body", environment["AWS_ACCESS_KEY_ID"]))


def test_missing_bucket_is_told(server: ObjectServer) -> None:
    with pytest.raises(StorageError, match=r"^s3://no-such-bucket: S3 refuses it \(NoSuchBucket"):
        open_store("s3://no-such-bucket", server.environment()).names()


def test_store_is_the_same_in_another_process(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("a", b"content")
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert pickle.loads(pickle.dumps(store)).get("a") == b"content"  # noqa: S301 of this test's own


def _uses(store: ObjectStore, folder: Path) -> list[Callable[[], object]]:
    return [
        store.names,
        lambda: store.find("large"),
        lambda: store.get("large"),
        lambda: store.download("large", folder / "copy"),
        lambda: store.put("large", b"content"),
        lambda: store.put("large", b"content" * (PART_BYTES // 4)),
        lambda: store.put_new("new", b"content"),
        lambda: store.delete("large"),
    ]


def _client(server: ObjectServer) -> boto3.client:
    variables = server.environment()
    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=variables["AWS_REGION"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
    )


def _put_as_others_do(server: ObjectServer, store: ObjectStore, name: str, content: bytes) -> None:
    key = store.address.removeprefix(f"s3://{BUCKET}/") + f"/{name}"
    _client(server).put_object(Bucket=BUCKET, Key=key, Body=content)
