"""Objects in a real server of S3's protocol, which checks signatures and hashes as S3 does."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from breaking_line import Line
from real_object_store import BUCKET, ObjectServer, running_object_server

from l2c_ray.errors import StorageError
from l2c_ray.storage.objects import ObjectStore, open_store


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


def test_objects_beside_the_prefix_are_not_seen(store: ObjectStore, object_server: ObjectServer, prefix: str) -> None:
    open_store(f"{prefix}-beside", object_server.environment()).put("a", b"")
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


def test_other_writers_objects_are_compared_with_their_md5(object_server: ObjectServer, store: ObjectStore) -> None:
    _put_as_others_do(object_server, store, "theirs", b"content")
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


def test_missing_bucket_is_told(object_server: ObjectServer) -> None:
    with pytest.raises(StorageError, match=r"^s3://no-such-bucket: S3 refuses it \(NoSuchBucket"):
        open_store("s3://no-such-bucket", object_server.environment()).names()


def test_store_is_the_same_in_another_process(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("a", b"content")
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert pickle.loads(pickle.dumps(store)).get("a") == b"content"  # noqa: S301 of this test's own


def _put_as_others_do(object_server: ObjectServer, store: ObjectStore, name: str, content: bytes) -> None:
    key = store.address.removeprefix(f"s3://{BUCKET}/") + f"/{name}"
    object_server.client().put_object(Bucket=BUCKET, Key=key, Body=content)
