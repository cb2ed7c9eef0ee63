"""This machine's copies of objects: fetched once, by whoever comes first, and never damaged."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from breaking_line import Line
from real_cluster import PATIENCE, wait_until
from real_object_store import BUCKET, ObjectServer

from l2c_ray.errors import StorageError
from l2c_ray.storage.cache import fetch
from l2c_ray.storage.files import home
from l2c_ray.storage.objects import ObjectStore, open_store

SIZE = 12 << 20

FETCH = "import sys; from l2c_ray.storage.cache import fetch; from l2c_ray.storage.objects import open_store; "
FETCH += "print(fetch(open_store(sys.argv[1]), sys.argv[2]))"


@pytest.fixture
def store(object_server: ObjectServer, line: Line, tmp_path: Path) -> ObjectStore:
    return open_store(f"s3://{BUCKET}/{tmp_path.name}", object_server.environment(port=line.port))


@pytest.fixture
def start(object_server: ObjectServer, line: Line, store: ObjectStore) -> Callable[[str], subprocess.Popen[str]]:
    """Fetches an object in another process."""

    def run(name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", FETCH, store.address, name],
            env=os.environ | object_server.environment(port=line.port),
            stdout=subprocess.PIPE,
            text=True,
        )

    return run


def test_object_is_fetched_once_and_anew_when_it_is_replaced(store: ObjectStore, line: Line) -> None:
    content = os.urandom(SIZE)
    store.put("a", content)
    line.answered = 0
    path = fetch(store, "a")
    assert path.read_bytes() == content
    assert path.is_relative_to(home() / "cache")
    assert fetch(store, "a") == path
    store.put("same", content)
    assert fetch(store, "same") == path
    assert line.answered < SIZE + (1 << 16)
    store.put("a", b"other")
    assert fetch(store, "a").read_bytes() == b"other"
    assert path.read_bytes() == content
    assert _files(home() / "cache" / "sha256") == 2


def test_object_of_a_folder_is_copied_once(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "folder"))
    store.put("a", b"content")
    path = fetch(store, "a")
    written = path.stat().st_mtime_ns
    assert fetch(store, "a") == path
    assert path.stat().st_mtime_ns == written
    store.put("a", b"other")
    assert fetch(store, "a").read_bytes() == b"other"


def test_damaged_copy_is_fetched_again(store: ObjectStore) -> None:
    store.put("a", b"content")
    path = fetch(store, "a")
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    assert fetch(store, "a").read_bytes() == b"content"


def test_missing_object_is_told_and_nothing_is_kept(store: ObjectStore) -> None:
    with pytest.raises(StorageError, match=f"^{store.address}/none: is not there"):
        fetch(store, "none")
    assert _files(home()) == 0


def test_several_processes_fetch_an_object_once(
    store: ObjectStore, line: Line, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    content = os.urandom(SIZE)
    store.put("a", content)
    line.answered = 0
    processes = [start("a") for _ in range(3)]
    paths = {process.communicate(timeout=PATIENCE)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert paths == {str(fetch(store, "a"))}
    assert fetch(store, "a").read_bytes() == content
    assert line.answered < SIZE + (1 << 16)


def test_what_a_killed_process_has_fetched_is_not_fetched_again(
    store: ObjectStore, line: Line, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    content = os.urandom(SIZE)
    store.put("a", content)
    line.answered, line.held = 0, 9 << 20
    with start("a") as process:
        wait_until(lambda: _bytes(home() / "cache") >= 8 << 20)
        process.kill()
    line.answered, line.held = 0, None
    assert fetch(open_store(store.address, store._environment), "a").read_bytes() == content  # type: ignore[attr-defined]
    assert line.answered < SIZE - (8 << 20) + (1 << 16)
    assert _files(home() / "cache" / "sha256") == 1
    assert list((home() / "cache").rglob(".writing-*")) == []


def _files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
