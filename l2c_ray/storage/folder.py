"""Objects as files in a folder."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from l2c_ray.errors import StorageError
from l2c_ray.storage import addresses, files
from l2c_ray.storage.objects import PIECE_BYTES, Found, ObjectStore, replaced


class Folder(ObjectStore):
    """A file for every object; folders come and go with the files in them. Links that lead out are refused."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._root = path

    def names(self, under: str = "") -> set[str]:
        top = self._path(under) if under else self._root
        with self._typed_errors(top):
            return set(self._names(top)) if top.is_dir() or not under else set()

    def find(self, name: str) -> Found | None:
        path = self._path(name)
        with self._typed_errors(path):
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return _found(status) if stat.S_ISREG(status.st_mode) else None

    def put(self, name: str, content: bytes | Path) -> None:
        path = self._path(name)
        if isinstance(content, bytes):
            files.write_bytes(path, content)
            return
        with files.opened(content) as source, files.writing(path) as file:
            shutil.copyfileobj(source, file, PIECE_BYTES)

    def delete(self, name: str) -> None:
        path = self._path(name)
        with self._typed_errors(path, "removed"):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            for parent in path.parents:
                if parent == self._root:
                    break
                # Fails for the first folder that is not empty.
                parent.rmdir()

    def _pieces(self, name: str, found: Found) -> Iterator[bytes]:
        path = self._path(name)
        with self._typed_errors(path), files.opened(path) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
            if _found(os.fstat(file.fileno())) != found:
                raise replaced(f"{self.address}/{name}")

    def _names(self, top: Path) -> Iterator[str]:
        for folder, _, inside in os.walk(top, onerror=_unless_it_is_gone):
            for file in inside:
                path = Path(folder, file)
                name = path.relative_to(self._root).as_posix()
                if addresses.is_name(name) and (not path.is_symlink() or self._leads_to_file(path)):
                    yield name

    def _leads_to_file(self, link: Path) -> bool:
        return link.is_file() and self._leads_inside(link)

    def _leads_inside(self, path: Path) -> bool:
        # Unlike Path.resolve, this raises nothing for links that lead to each other; using them does.
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self._root))

    def _path(self, name: str) -> Path:
        path = self._root / addresses.check_name(self.address, name)
        if not self._leads_inside(path):
            raise StorageError(str(path), f"is a link that leads out of {self.address}", "remove the link")
        return path

    @contextmanager
    def _typed_errors(self, path: Path, what: str = "read") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(str(path), f"cannot be {what} ({error.strerror})", "check the path") from error


def _found(status: os.stat_result) -> Found:
    return Found(status.st_size, f"{status.st_dev}-{status.st_ino}-{status.st_mtime_ns}", {})


def _unless_it_is_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
