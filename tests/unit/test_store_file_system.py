"""Ray Train's operations on the file system of a store."""

import pickle
from pathlib import Path

import pyarrow.fs
import pytest

from l2c_ray.distributed.store_file_system import file_system
from l2c_ray.errors import StorageError
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_store


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


def test_folder_goes_there_and_comes_back(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "nested").mkdir(parents=True)
    (source / "a").write_bytes(b"first")
    (source / "nested" / "b").write_bytes(b"")
    place = file_system(store)
    pyarrow.fs.copy_files(str(source), "run/checkpoint", destination_filesystem=place)
    assert store.names() == {"run/checkpoint/a", "run/checkpoint/nested/b"}
    pyarrow.fs.copy_files("run/checkpoint", str(tmp_path / "back"), source_filesystem=place)
    assert (tmp_path / "back" / "a").read_bytes() == b"first"
    assert (tmp_path / "back" / "nested" / "b").read_bytes() == b""


def test_what_is_where_is_told(store: ObjectStore) -> None:
    store.put("run/checkpoint/a", b"first")
    place = file_system(store)
    kinds = [info.type.name for info in place.get_file_info(["run", "run/checkpoint/a", "none"])]
    assert kinds == ["Directory", "File", "NotFound"]
    assert place.get_file_info("run/checkpoint/a").size == 5
    assert [info.path for info in place.get_file_info(pyarrow.fs.FileSelector("run"))] == ["run/checkpoint"]
    with pytest.raises(FileNotFoundError):
        place.get_file_info(pyarrow.fs.FileSelector("none"))
    place.delete_dir("run/checkpoint")
    assert store.names() == set()


def test_stream_is_read_and_one_that_is_not_closed_leaves_nothing(store: ObjectStore) -> None:
    place = file_system(store)
    with place.open_output_stream("run/state") as stream:
        stream.write(b"con")
        stream.write(b"tent")
        assert store.names() == set()
    with place.open_input_stream("run/state") as stream:
        assert stream.read() == b"content"
    stream = place.open_output_stream("run/other")
    stream.write(b"half")
    del stream
    assert store.names() == {"run/state"}
    with pytest.raises(FileNotFoundError):
        place.open_input_stream("run/none")


def test_errors_of_the_store_reach_the_user(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(StorageError), file_system(store).open_output_stream("run/state") as stream:
        stream.write(b"content")


def test_file_systems_of_one_place_are_the_same_in_all_processes(store: ObjectStore, tmp_path: Path) -> None:
    place = file_system(store)
    again = pickle.loads(pickle.dumps(place))  # noqa: S301 of this test's own
    assert again == place
    assert again != file_system(open_store(str(tmp_path / "other")))


def test_keys_are_not_shown() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "n0body", "AWS_SECRET_ACCESS_KEY": "s3cret", "AWS_REGION": "us-east-1"}
    place = file_system(open_store("s3://bucket/runs", keys | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}))
    assert not any(key in f"{place!s} {place!r} {place.handler!r}" for key in keys.values())
