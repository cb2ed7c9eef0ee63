from pathlib import Path

import pytest

from l2c_ray.errors import StorageError, UnreachableError
from l2c_ray.storage import objects
from l2c_ray.storage.objects import open_store

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


def test_object_is_read_as_it_was_put_and_putting_again_replaces_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "made" / "when needed"))
    assert store.names() == set()
    store.put("a.npz", b"first")
    store.put("b.npz", b"")
    store.put("a.npz", b"second")
    assert store.names() == {"a.npz", "b.npz"}
    assert store.get("a.npz") == b"second"


def test_object_that_is_being_written_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / ".writing-abc").write_bytes(b"half")
    assert open_store(str(tmp_path)).names() == set()


def test_missing_object_and_folder_that_is_a_file_are_refused_naming_them(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        open_store(str(tmp_path)).get("none")
    assert caught.value.subject == str(tmp_path / "none")
    (tmp_path / "file").write_text("")
    store = open_store(str(tmp_path / "file"))
    for use in (store.names, lambda: store.put("a", b"")):
        with pytest.raises(StorageError, match=str(tmp_path / "file")):
            use()


@pytest.mark.parametrize("address", ["s3://", "s3://Upper/a", "s3:///a", "gs://bucket/a", "http://host/bucket"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_store(address)
    assert caught.value.subject == address


def test_server_that_is_not_there_is_unreachable(unused_port: int) -> None:
    store = open_store("s3://bucket/a/", KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{unused_port}"})
    assert store.address == "s3://bucket/a"
    with pytest.raises(UnreachableError, match=r"^s3://bucket/a: S3 does not answer"):
        store.names()
    with pytest.raises(UnreachableError, match=r"^s3://bucket/a/b: S3 does not answer"):
        store.put("b", b"")


def test_endpoint_that_is_no_address_is_refused() -> None:
    with pytest.raises(StorageError, match=r"^s3://bucket: S3 cannot be used .*nowhere"):
        open_store("s3://bucket", KEYS | {"AWS_ENDPOINT_URL": "nowhere"})


def test_another_process_is_told_where_s3_is_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (KEYS | {"AWS_PROFILE": "of this machine"}).items():
        monkeypatch.setenv(name, value)
    assert objects.environment() == KEYS
