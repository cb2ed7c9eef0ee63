"""Behaviour of every store, on folders; refused names and addresses; servers that cannot be used."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from l2c_ray.errors import StorageError, UnreachableError
from l2c_ray.storage.addresses import environment
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_store

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}

BAD_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/../../x",
    "a/./b",
    "/etc/passwd",
    "a//b",
    "a/",
    "a\0b",
    "a\nb",
    ".writing-a",
    "x" * 1025,
]


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "made" / "when needed"))


def test_object_is_read_as_it_was_put_and_putting_again_replaces_it(store: ObjectStore) -> None:
    assert store.names() == set()
    store.put("a.npz", b"first")
    store.put("b.npz", b"")
    store.put("a.npz", b"second")
    assert store.names() == {"a.npz", "b.npz"}
    assert store.get("a.npz") == b"second"


def test_nested_objects_are_found_listed_and_removed_with_their_folders(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"from a file")
    store.put("runs/first/settings.json", tmp_path / "source")
    store.put("runs/firstborn", b"other")
    assert store.names() == {"runs/first/settings.json", "runs/firstborn"}
    assert store.names("runs/first") == {"runs/first/settings.json"}
    assert store.names("runs/firstborn") == store.names("none") == set()
    assert store.get("runs/first/settings.json") == b"from a file"
    found = store.find("runs/firstborn")
    assert found is not None
    assert found.size == 5
    store.delete("runs/first/settings.json")
    store.delete("runs/first/settings.json")
    assert store.find("runs/first/settings.json") is None
    assert store.find("runs") is None
    assert [path.name for path in Path(store.address, "runs").iterdir()] == ["firstborn"]


def test_version_is_another_one_when_the_object_is_replaced(store: ObjectStore) -> None:
    store.put("a", b"first")
    before = store.find("a")
    assert store.find("a") == before
    store.put("a", b"other")
    assert store.find("a") != before


def test_download_gives_a_whole_file_and_nothing_else(store: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    store.put("a", content)
    path = tmp_path / "copies" / "a"
    store.download("a", path)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_object_that_is_being_written_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / ".writing-abc").write_bytes(b"half")
    assert open_store(str(tmp_path)).names() == set()


def test_missing_object_and_folder_that_is_a_file_are_refused_naming_them(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        open_store(str(tmp_path)).get("none")
    assert caught.value.subject == str(tmp_path / "none")
    (tmp_path / "file").write_text("")
    store = open_store(str(tmp_path / "file"))
    for use in (store.names, lambda: store.put("a", b""), store.check_writable):
        with pytest.raises(StorageError, match=str(tmp_path / "file")):
            use()


@pytest.mark.parametrize("address", ["folder", "s3://bucket/prefix"])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_name_that_is_none_or_leads_out_is_refused_and_nothing_is_touched(
    tmp_path: Path, address: str, name: str
) -> None:
    (tmp_path / "x").write_bytes(b"outside")
    address = str(tmp_path / address) if "://" not in address else address
    store = open_store(address, KEYS | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, retry_seconds=0)
    for use in _uses(store, name, tmp_path):
        with pytest.raises(StorageError, match="is no name of an object"):
            use()
    assert (tmp_path / "x").read_bytes() == b"outside"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("name", ["file", "folder/secret", "new"])
def test_links_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (inside / "file").symlink_to(outside / "secret")
    (inside / "folder").symlink_to(outside)
    (inside / "new").symlink_to(outside / "new")
    store = open_store(str(inside))
    assert store.names() == set()
    for use in _uses(store, name, tmp_path):
        with pytest.raises(StorageError, match="is a link that leads out"):
            use()
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_links_that_lead_to_each_other_are_no_object(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    store = open_store(str(tmp_path))
    assert store.names() == set()
    for use in (store.get, store.find, lambda name: store.put(f"{name}/a", b"")):
        with pytest.raises(StorageError, match=str(tmp_path / "circle")):
            use("circle")


def test_folder_that_is_a_link_itself_and_links_inside_it_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = open_store(str(tmp_path / "link"))
    store.put("a", b"content")
    (tmp_path / "real" / "b").symlink_to("a")
    assert store.names() == {"a", "b"}
    assert store.get("b") == b"content"


def test_full_disk_is_told_and_nothing_half_written_stays(store: ObjectStore, small_disk: Path, tmp_path: Path) -> None:
    content = os.urandom(2 << 20)
    (tmp_path / "source").write_bytes(content)
    store.put("large", content)
    full = open_store(str(small_disk))
    full.put("small", b"content")
    for use in (
        lambda: full.put("large", content),
        lambda: full.put("large", tmp_path / "source"),
        lambda: full.put("small", content),
        lambda: store.download("large", small_disk / "large"),
    ):
        with pytest.raises(StorageError, match=f"^{small_disk}.*No space left"):
            use()
        assert [path.name for path in small_disk.iterdir()] == ["small"]
    assert full.get("small") == b"content"


def test_file_over_the_size_limit_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    open_store(str(tmp_path / "from")).put("large", bytes(1 << 20))
    code = (
        "import sys; from pathlib import Path; from l2c_ray.storage.opening import open_store; "
        "open_store(sys.argv[1]).download('large', Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "from"), str(tmp_path / "to" / "large")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18)),
        capture_output=True,
        text=True,
    )
    assert "StorageError" in done.stderr
    assert "File too large" in done.stderr
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize(
    "address",
    ["s3://", "s3://Upper/a", "s3:///a", "gs://bucket/a", "http://host/bucket", "s3://bucket/../a", "s3://bucket//a"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_store(address)
    assert caught.value.subject == address


def test_server_that_is_not_there_is_unreachable(unused_port: int) -> None:
    endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{unused_port}"}
    store = open_store("s3://bucket/a/", KEYS | endpoint, retry_seconds=0.5)
    assert store.address == "s3://bucket/a"
    with pytest.raises(UnreachableError, match=rf"^s3://bucket/a: S3 does not answer at 127.0.0.1:{unused_port}"):
        store.names()
    with pytest.raises(UnreachableError, match=r"^s3://bucket/a/b: S3 does not answer"):
        store.put("b", b"")


def test_endpoint_that_is_no_address_is_refused_without_its_password() -> None:
    with pytest.raises(StorageError, match=r"^s3://bucket: S3 cannot be used .*nowhere") as caught:
        open_store("s3://bucket", KEYS | {"AWS_ENDPOINT_URL": "me:s3cret@nowhere"})
    assert "s3cret" not in str(caught.value)


def test_missing_keys_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    store = open_store("s3://bucket", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_REGION": "us-east-1"})
    with pytest.raises(StorageError, match=r"no keys for S3; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        store.names()


def test_another_process_is_told_where_s3_is_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (KEYS | {"AWS_PROFILE": "of this machine"}).items():
        monkeypatch.setenv(name, value)
    assert environment() == KEYS


def _uses(store: ObjectStore, name: str, folder: Path) -> list[Callable[[], object]]:
    return [
        lambda: store.find(name),
        lambda: store.get(name),
        lambda: store.download(name, folder / "copy"),
        lambda: store.put(name, b"content"),
        lambda: store.put(name, folder / "x"),
        lambda: store.delete(name),
    ]
