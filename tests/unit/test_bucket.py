"""Objects in a real server of S3's protocol, which checks signatures and hashes as S3 does."""

import hashlib
import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import ClientError
from real_object_store import BUCKET, ObjectServer
from urllib3 import HTTPResponse

from l2c_ray.errors import StorageError
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_store


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


def test_many_objects_are_listed_over_several_pages(store: ObjectStore) -> None:
    names = {f"shard-{number}" for number in range(7)}
    for name in names:
        store.put(name, b"")
    pages: list[int] = []
    events = store._s3.boto.meta.events  # type: ignore[attr-defined]
    events.register("before-parameter-build.s3.ListObjectsV2", lambda params, **_: params.update(MaxKeys=3))
    events.register("after-call.s3.ListObjectsV2", lambda parsed, **_: pages.append(parsed["KeyCount"]))
    assert store.names() == names
    assert pages == [3, 3, 1]


def test_large_file_goes_up_in_parts_and_comes_back_whole(store: ObjectStore, content: bytes, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "made" / "copy"
    source.write_bytes(content)
    store.put("large", source)
    found = store.find("large")
    assert found is not None
    assert found.version.endswith("-3")
    assert found.digests == {"sha256": hashlib.sha256(content).hexdigest()}
    store.download("large", copy)
    assert copy.read_bytes() == content
    assert list(copy.parent.iterdir()) == [copy]


def test_other_writers_objects_are_compared_with_their_md5(object_server: ObjectServer, store: ObjectStore) -> None:
    _put_as_others_do(object_server, store, "theirs", b"content")
    found = store.find("theirs")
    assert found is not None
    assert found.digests == {"md5": hashlib.md5(b"content", usedforsecurity=False).hexdigest()}
    assert store.get("theirs") == b"content"


def test_upload_whose_completion_lost_its_answer_counts_as_done(
    store: ObjectStore, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = store._s3.boto  # type: ignore[attr-defined]
    complete = client.complete_multipart_upload

    def complete_twice(**request: Any) -> Any:
        complete(**request)
        raise ClientError({"Error": {"Code": "NoSuchUpload"}}, "CompleteMultipartUpload")

    monkeypatch.setattr(client, "complete_multipart_upload", complete_twice)
    store.put("large", content)
    assert store.get("large") == content


def test_busy_server_is_asked_again(store: ObjectStore) -> None:
    asked: list[AWSPreparedRequest] = []

    def busy_once(request: AWSPreparedRequest, **_: Any) -> AWSResponse | None:
        asked.append(request)
        return (
            AWSResponse(request.url, 503, {}, HTTPResponse(BytesIO(), preload_content=False))
            if len(asked) == 1
            else None
        )

    events = store._s3.boto.meta.events  # type: ignore[attr-defined]
    events.register("before-send.s3.PutObject", busy_once)
    store.put("a", b"content")
    assert len(asked) == 2
    assert store.get("a") == b"content"


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
