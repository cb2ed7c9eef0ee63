"""An object store as an Arrow file system, the form in which Ray Train takes a place for its checkpoints."""

import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NoReturn

import pyarrow
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, PyFileSystem

from l2c_ray.storage.files import cannot_be_written
from l2c_ray.storage.objects import ObjectStore


def file_system(store: ObjectStore) -> PyFileSystem:
    """File system whose paths are the store's names, so that Ray Train's files appear whole and verified.

    In this form boto3 is the only client of S3, and retries until its deadline for Ray Train too.
    """
    return PyFileSystem(_StoreHandler(store))


class _StoreHandler(FileSystemHandler):  # type: ignore[misc]
    """The operations that Ray Train uses; a folder exists as long as an object is in it."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _StoreHandler) and other._store.address == self._store.address

    def __hash__(self) -> int:
        return hash(self._store.address)

    def get_type_name(self) -> str:
        return "l2c-objects"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        names = self._store.names(selector.base_dir)
        if not names and not selector.allow_not_found:
            raise FileNotFoundError(selector.base_dir)
        base = PurePosixPath(selector.base_dir)
        inside = {
            path
            for name in names
            for path in (PurePosixPath(name), *PurePosixPath(name).parents)
            if base in path.parents and (selector.recursive or path.parent == base)
        }
        return [self._info(str(path)) for path in sorted(inside)]

    def create_dir(self, path: str, recursive: bool) -> None:
        """Does nothing: a folder appears with its first object."""

    def delete_dir(self, path: str) -> None:
        for name in self._store.names(path):
            self._store.delete(name)

    def delete_file(self, path: str) -> None:
        self._store.delete(path)

    def open_input_stream(self, path: str) -> pyarrow.NativeFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pyarrow.NativeFile:
        if self._store.find(path) is None:
            raise FileNotFoundError(path)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "content")
            self._store.download(path, copy)
            # An open file stays readable when its name is removed.
            return pyarrow.OSFile(str(copy))

    def open_output_stream(self, path: str, metadata: Mapping[str, str]) -> pyarrow.NativeFile:
        return pyarrow.PythonFile(_Upload(self._store, path), mode="w")

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> NoReturn:
        raise _not_asked_for("delete_dir_contents")

    def delete_root_dir_contents(self) -> NoReturn:
        raise _not_asked_for("delete_root_dir_contents")

    def move(self, src: str, dest: str) -> NoReturn:
        raise _not_asked_for("move")

    def copy_file(self, src: str, dest: str) -> NoReturn:
        raise _not_asked_for("copy_file")

    def open_append_stream(self, path: str, metadata: Mapping[str, str]) -> NoReturn:
        raise _not_asked_for("open_append_stream")

    def _info(self, path: str) -> FileInfo:
        if found := self._store.find(path):
            return FileInfo(path, FileType.File, size=found.size)
        return FileInfo(path, FileType.Directory if self._store.names(path) else FileType.NotFound)


class _Upload:
    """A local file that is put into the store when it is closed; without that it leaves nothing."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._store = store
        self._name = name
        self._file = tempfile.NamedTemporaryFile()  # noqa: SIM115 closed with this
        self.closed = False

    def write(self, content: bytes) -> int:
        with cannot_be_written(Path(self._file.name)):
            return self._file.write(content)

    def flush(self) -> None:
        """Does nothing: the store gets the whole file at the end."""

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            with self._file:
                with cannot_be_written(Path(self._file.name)):
                    self._file.flush()
                self._store.put(self._name, Path(self._file.name))


def _not_asked_for(what: str) -> NotImplementedError:
    return NotImplementedError(f"{what}: Ray Train does not ask for it")
