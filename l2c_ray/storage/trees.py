"""Files of others below one address, a folder or a prefix in a bucket of S3, listed and read."""

import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple

from l2c_ray.errors import L2CError, StorageError
from l2c_ray.storage import files

_HIDDEN = re.compile(
    r"\.(?!\.?$).*|README(\..*)?|__info__\.json|__MACOSX|_temporary|_delta_log|lost\+found|~\$.*|@eaDir"
    r"|(?i:thumbs\.db|desktop\.ini|\$RECYCLE\.BIN|System Volume Information)",
    re.DOTALL,
)
"""Names of what systems and tools leave beside data. `.` and `..` are none: they lead to what is named after them."""

EntryKind = Literal["file", "folder", "dangling link", "device or pipe"]


class Entry(NamedTuple):
    """Something that is there."""

    name: str
    """Below the address, with slashes."""
    kind: EntryKind
    size: int = 0
    """Bytes of a file."""


class FileTree(ABC):
    """Everything below a folder's path or `s3://bucket/prefix`; it is only read.

    Every method raises a `StorageError` where the place is not there or not this user's, and an `UnreachableError`
    where it has not answered for a while. Whatever a library raises over the content of a file while it is open
    becomes a `StorageError` that names the file.
    """

    address: str

    def entries(self, pattern: str | None = None) -> list[Entry]:
        """All that is there at any depth but in hidden folders, sorted by name. Folders that links lead to are entered.

        Args:
            pattern: a glob for the names that are wanted; folders below which there is none of them may be left out.

        Raises:
            StorageError: a folder cannot be read, or a link leads to files that are wanted by another name too.
        """
        with self._typed_errors(self.address):
            entries = self._entries(pattern or "**")
            return sorted(entry for entry in entries if not is_hidden(entry.name.rpartition("/")[0]))

    def read(self, name: str, most: int) -> bytes:
        """The file's content.

        Raises:
            StorageError: it has more than `most` bytes.
        """
        with self.stream(name) as file:
            content = file.read(most + 1)
        if len(content) > most:
            problem = f"has more than {most >> 20} MiB, too many for what is read here"
            raise StorageError(self.path(name), problem, "take it away")
        return content

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The file for reading from any place in it."""
        with self._typed_errors(self.path(name)), self._open(name) as file:
            yield file

    @contextmanager
    def stream(self, name: str) -> Iterator[IO[bytes]]:
        """The file for reading from its beginning to its end."""
        with self._typed_errors(self.path(name)), self._stream(name) as file:
            yield file

    def path(self, name: str) -> str:
        """The file as errors name it."""
        return f"{self.address}/{name}"

    @abstractmethod
    def _entries(self, pattern: str) -> Iterable[Entry]: ...

    @abstractmethod
    def _open(self, name: str) -> AbstractContextManager[IO[bytes]]: ...

    @abstractmethod
    def _stream(self, name: str) -> AbstractContextManager[IO[bytes]]: ...

    @contextmanager
    def _typed_errors(self, subject: str) -> Iterator[None]:
        try:
            yield
        except L2CError:
            raise
        except Exception as error:
            # The file system's, and of libraries that read the file whatever damaged content leads to.
            reason = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
            raise self._typed(subject, (reason or type(error).__name__).splitlines()[0], error) from error

    def _typed(self, subject: str, reason: str, error: Exception) -> L2CError:
        remedy = "check the path" if isinstance(error, OSError) else "get it again"
        return StorageError(subject, f"cannot be read ({reason})", remedy)


class FolderTree(FileTree):
    """Files of this machine; only ordinary ones are opened."""

    def __init__(self, path: Path) -> None:
        """Nothing is read yet."""
        self.address = str(path)
        self._root = path

    def _entries(self, pattern: str) -> list[Entry]:
        found: list[Entry] = []
        found_as: dict[tuple[int, int], str] = {}
        again: dict[str, str] = {}
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            path = self._root / folder
            with self._typed_errors(str(path)):
                status = path.stat()
                first = found_as.setdefault((status.st_dev, status.st_ino), folder)
                if first != folder:
                    again[folder] = first
                    continue
                inside = [_entry(each, f"{folder}/{each.name}".lstrip("/")) for each in os.scandir(path)]
            found += inside
            folders = sorted(entry.name for entry in inside if entry.kind == "folder")
            waiting += [name for name in folders if not is_hidden(name) and _may_choose_below(pattern, name)]
        self._require_once(again, found, pattern)
        return found

    def _require_once(self, again: Mapping[str, str], found: Sequence[Entry], pattern: str) -> None:
        """Nothing, if no file that the glob chooses is found again by another name of its folder, or without an end."""
        chosen = compiled_glob(pattern)
        names = [entry.name for entry in found if entry.kind == "file" and not is_hidden(entry.name)]
        for folder, first in again.items():
            below = f"{first}/" if first else ""
            if any(chosen.match(f"{folder}/{name[len(below) :]}") for name in names if name.startswith(below)):
                problem = f"is the same folder as {self._root / first}"
                raise StorageError(str(self._root / folder), problem, "remove one of the two links")

    def _open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        return files.opened(self._root / name)

    _stream = _open


def open_tree(address: str, environment: Mapping[str, str] = os.environ) -> FileTree:
    """The files below a folder's path or `s3://bucket/prefix`; nothing is read yet.

    Args:
        environment: where AWS_ENDPOINT_URL, AWS_REGION and the keys are looked up; for what is not there the S3
            client looks into its own places.

    Raises:
        StorageError: it is no such address.
    """
    if "://" not in address:
        return FolderTree(files.from_root(Path(address).expanduser()))
    # Loading Arrow takes half a second, which whoever reads a folder need not wait for.
    from l2c_ray.storage.bucket_tree import BucketTree

    return BucketTree(address, environment)


def is_hidden(name: str) -> bool:
    """Whether it, or a folder that it is in, has such a name as systems and tools give to what is no data."""
    return any(map(_HIDDEN.fullmatch, name.split("/")))


def compiled_glob(pattern: str) -> re.Pattern[str]:
    """A regular expression that matches as the glob does: `*` within a name, `**` any folders.

    Raises:
        ValueError: it is no glob.
    """
    from fsspec.utils import glob_translate

    return re.compile(glob_translate(pattern))


def _may_choose_below(pattern: str, folder: str) -> bool:
    """Whether the glob matches any name in the folder or deeper."""
    parts = pattern.split("/")
    depth = folder.count("/") + 1
    start = parts[:depth]
    if "**" in start:
        start = start[: start.index("**") + 1]
    elif depth >= len(parts):
        return False
    return compiled_glob("/".join(start)).match(folder) is not None


def _entry(found: os.DirEntry[str], name: str) -> Entry:
    try:
        status = found.stat()
    except OSError:
        if not found.is_symlink():
            raise
        return Entry(name, "dangling link")
    if stat.S_ISDIR(status.st_mode):
        return Entry(name, "folder")
    return Entry(name, "file" if stat.S_ISREG(status.st_mode) else "device or pipe", status.st_size)
