"""Files of others in a real server of S3's protocol: listed, read from any place, and over lines that break."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from breaking_line import Line
from picture_files import picture, write_parquet, write_tar
from real_object_store import BUCKET, ObjectServer

from l2c_ray.data.sources.parquet import ParquetImages
from l2c_ray.data.sources.parquet_check import Columns
from l2c_ray.data.sources.webdataset import TarImages
from l2c_ray.errors import StorageError, UnreachableError
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_tree
from l2c_ray.storage.trees import Entry, FileTree

SIZE = 5 << 20


@pytest.fixture
def tree_over_the_line(object_server: ObjectServer, line: Line, prefix: str) -> Callable[..., FileTree]:
    return partial(open_tree, prefix, object_server.environment(port=line.port))


@pytest.fixture
def tree(object_server: ObjectServer, prefix: str) -> FileTree:
    return open_tree(prefix, object_server.environment(), retry_seconds=1)


def test_objects_are_listed_with_their_folders_and_sizes(
    object_server: ObjectServer, store: ObjectStore, tree: FileTree, prefix: str
) -> None:
    for name in ("a.tar", "cat/1.png", "cat/more/2.png", ".hidden/3.png"):
        store.put(name, b"content")
    store_of_others = object_server.client()
    store_of_others.put_object(Bucket=BUCKET, Key=f"{prefix.removeprefix(f's3://{BUCKET}/')}/dog/", Body=b"")
    assert tree.entries() == [
        Entry(".hidden", "folder"),
        Entry("a.tar", "file", 7),
        Entry("cat", "folder"),
        Entry("cat/1.png", "file", 7),
        Entry("cat/more", "folder"),
        Entry("cat/more/2.png", "file", 7),
        Entry("dog", "folder"),
    ]


def test_file_is_read_from_any_place_in_it(store: ObjectStore, tree: FileTree) -> None:
    content = os.urandom(SIZE)
    store.put("a", content)
    with tree.open("a") as file:
        assert file.seek(-10, os.SEEK_END) == SIZE - 10
        assert file.read() == content[-10:]
        file.seek(3 << 20)
        assert file.read(5) == content[3 << 20 :][:5]
        file.seek(0)
        assert file.read(SIZE + 1) == content
        assert file.read(1) == b""
    assert tree.read("a", most=SIZE) == content
    with pytest.raises(StorageError, match="has more than 4 MiB"):
        tree.read("a", most=SIZE - 1)


def test_only_what_is_read_is_transferred(
    store: ObjectStore, tree_over_the_line: Callable[..., FileTree], line: Line
) -> None:
    store.put("a", bytes(SIZE))
    with tree_over_the_line().open("a") as file:
        file.seek(-10, os.SEEK_END)
        file.read()
    assert line.answered < 1 << 16


def test_reading_goes_on_where_the_line_broke(
    store: ObjectStore, tree_over_the_line: Callable[..., FileTree], line: Line
) -> None:
    content = os.urandom(SIZE)
    store.put("a", content)
    line.answers = [3 << 20, 1 << 20]
    with tree_over_the_line().open("a") as file:
        assert file.read(SIZE) == content
    assert line.answers == []
    assert line.answered < SIZE + (1 << 16)


def test_parquet_and_tars_are_read(store: ObjectStore, tree: FileTree, tmp_path: Path) -> None:
    pictures = [picture(seed) for seed in range(5)]
    store.put("a.parquet", write_parquet(tmp_path / "a.parquet", pictures, [0, 1, 2, 0, 1]))
    store.put("a.tar", write_tar(tmp_path / "a.tar", [("1.png", pictures[0]), ("1.cls", b"2")]))
    tables = ParquetImages(tree, None, 3, 2, Columns("image", "label"))
    found = [example for part in tables.parts() for example in tables.read(part)]
    assert [example.content for example in found] == pictures
    tars = TarImages(tree, None, 3)
    (example,) = [example for part in tars.parts() for example in tars.read(part)]
    assert (example.content, example.label) == (pictures[0], 2)


def test_missing_and_replaced_objects_are_told(store: ObjectStore, tree: FileTree) -> None:
    with pytest.raises(StorageError, match=f"^{tree.address}: has no object in it"):
        tree.entries()
    with pytest.raises(StorageError, match=f"^{tree.address}/none: is not there"):
        tree.read("none", most=1)
    store.put("a", bytes(SIZE))
    with tree.open("a") as file:
        file.read(1)
        store.put("a", b"x" * SIZE)
        with pytest.raises(StorageError, match=f"^{tree.address}/a: was replaced"):
            file.read()


def test_wrong_keys_and_a_server_that_is_away_are_told(
    object_server: ObjectServer, tree: FileTree, prefix: str
) -> None:
    with pytest.raises(StorageError, match=f"^{tree.address}: S3 does not let you in"):
        open_tree(prefix, object_server.environment("s3cret-but-wrong")).entries()
    with object_server.away(), pytest.raises(UnreachableError, match=f"^{tree.address}: S3 does not answer"):
        tree.entries()
