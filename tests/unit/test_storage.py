import errno
import os
import stat
from pathlib import Path

import pytest
import torch

from l2c_ray.errors import CheckpointError, StorageError
from l2c_ray.storage.files import home, make_writable, read_bytes, read_text, write_bytes, write_text
from l2c_ray.storage.tensors import read_tensors, write_tensors


@pytest.fixture
def disk_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)


def test_what_is_written_is_read_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where" / "a.txt"
    assert write_text(path, "Fréchet\n") == path
    assert read_text(path) == "Fréchet\n"


def test_byte_order_mark_of_a_text_file_is_not_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbftext")
    assert read_text(path) == "text"


def test_only_ordinary_files_up_to_a_size_are_read(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.write_bytes(b"12345")
    for path in (pipe, Path("/dev/zero"), tmp_path):
        with pytest.raises(StorageError, match="no ordinary file") as caught:
            read_text(path)
        assert caught.value.subject == str(path)
    assert read_bytes(large, most=5) == b"12345"
    with pytest.raises(StorageError, match="more than 4 bytes"):
        read_bytes(large, most=4)


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"a long first content")
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("disk_full")
def test_failing_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(StorageError) as caught:
        write_bytes(path, b"new")
    assert caught.value.subject == str(path)
    assert "No space left" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_that_is_interrupted_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_over_a_folder_is_refused_and_leaves_it(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    (folder / "inside").mkdir(parents=True)
    with pytest.raises(StorageError) as caught:
        write_bytes(folder, b"new")
    assert caught.value.subject == str(folder)
    assert list(tmp_path.iterdir()) == [folder]
    assert (folder / "inside").is_dir()


def test_any_name_that_the_file_system_takes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("a" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_name_that_is_too_long_is_refused_naming_it(tmp_path: Path) -> None:
    path = tmp_path / ("a" * (os.pathconf(tmp_path, "PC_NAME_MAX") + 1))
    with pytest.raises(StorageError) as caught:
        write_bytes(path, b"new")
    assert caught.value.subject == str(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_are_those_that_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        path = write_bytes(tmp_path / "a", b"x")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_private_file_is_at_no_moment_open_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def look(handle: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(handle).st_mode))

    monkeypatch.setattr(os, "fsync", look)
    before = os.umask(0)
    try:
        path = write_text(tmp_path / "a", "secret", mode=0o600)
    finally:
        os.umask(before)
    assert seen == [0o600]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_folder_is_made_and_stays_empty(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "where"
    assert make_writable(folder) == folder
    assert make_writable(folder) == folder
    assert list(folder.iterdir()) == []


def test_folder_below_a_file_is_refused_naming_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError) as caught:
            make_writable(folder)
        assert caught.value.subject == str(folder)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that not even root can write to")
def test_file_system_that_cannot_be_written_is_refused_naming_the_folder() -> None:
    for folder in (Path("/proc"), Path("/proc/made-by-a-test")):
        with pytest.raises(StorageError) as caught:
            make_writable(folder)
        assert caught.value.subject == str(folder)
        with pytest.raises(StorageError, match=str(folder)):
            write_bytes(folder / "a", b"x")


def test_missing_file_is_refused_naming_it(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        read_text(tmp_path / "none")
    assert caught.value.subject == str(tmp_path / "none")
    assert caught.value.exit_code == 2


def test_folder_cannot_be_read_as_text(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=str(tmp_path)):
        read_text(tmp_path)


def test_file_that_is_not_utf8_is_refused_naming_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StorageError, match=r"a: is not text in UTF-8; save it as UTF-8"):
        read_text(tmp_path / "a")


def test_home_is_where_the_environment_says_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("L2C_HOME", "here")
    assert home() == tmp_path / "here"
    monkeypatch.setenv("L2C_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".l2c_ray"


def test_tensors_survive_writing_and_reading(tmp_path: Path) -> None:
    tensors = {
        "float": torch.randn(3, 4),
        "half": torch.randn(2).half(),
        "double": torch.randn(2).double(),
        "whole": torch.tensor(7),
        "view": torch.arange(12).reshape(3, 4).T,
    }
    again = read_tensors(write_tensors(tmp_path / "a.safetensors", tensors))
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor)


@pytest.mark.usefixtures("disk_full")
def test_failing_write_of_tensors_leaves_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        write_tensors(path, {"a": torch.ones(2)})
    with pytest.raises(StorageError):
        write_tensors(path, {"a": torch.zeros(2)})
    assert torch.equal(read_tensors(path)["a"], torch.ones(2))


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
def test_truncated_tensors_are_refused_naming_the_file(tmp_path: Path, kept: int) -> None:
    path = write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(64)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError) as caught:
        read_tensors(path)
    assert caught.value.subject == str(path)
    assert "\n" not in str(caught.value)


def test_file_that_has_no_tensors_is_refused_naming_it(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pickle.safetensors")
    (tmp_path / "folder").mkdir()
    for name in ("pickle.safetensors", "none", "folder"):
        with pytest.raises(CheckpointError) as caught:
            read_tensors(tmp_path / name)
        assert caught.value.subject == str(tmp_path / name)
