"""Files of others: the interface by which a folder or a prefix in a bucket of S3 is listed and read."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Literal, NamedTuple

from l2c_ray.errors import L2CError, StorageError

_HIDDEN = re.compile(
    r"\.(?!\.?$).*|README(\..*)?|__info__\.json|__MACOSX|_temporary|_delta_log|lost\+found|~\$.*|@eaDir"
    r"|(?i:thumbs\.db|desktop\.ini|\$RECYCLE\.BIN|System Volume Information)",
    re.DOTALL,
)
"""Names of files that systems and tools leave beside data; `.` and `..` are parts of paths, not names."""

EntryKind = Literal["file", "folder", "dangling link", "device or pipe"]


class Entry(NamedTuple):
    """A file, folder or other entry of a tree."""

    name: str
    """Path below the address, with slashes."""
    kind: EntryKind
    size: int = 0
    """Size of a file in bytes."""


class FileTree(ABC):
    """All files below a folder's path or `s3://bucket/prefix`, to be read.

    Every method raises a `StorageError` if the place is missing or not this user's, and an `UnreachableError` if the
    server is away until the retry deadline. Any other exception while a file is open, as of a library that parses its
    content, becomes a `StorageError` that names the file.
    """

    address: str

    def entries(self, pattern: str | None = None) -> list[Entry]:
        """All entries at any depth but in hidden folders, sorted by name; links to folders are followed.

        Args:
            pattern: a glob for the wanted names; folders that can have none of them may be left out.

        Raises:
            StorageError: a folder cannot be read, or links make a wanted file appear under several names.
        """
        with self._typed_errors(self.address):
            entries = self._entries(pattern or "**")
            return sorted(entry for entry in entries if not is_hidden(entry.name.rpartition("/")[0]))

    def read(self, name: str, most: int) -> bytes:
        """The file's content.

        Raises:
            StorageError: it has more than `most` bytes.
        """
        with self.open(name) as file:
            content = file.read(most + 1)
        if len(content) > most:
            problem = f"has more than {most >> 20} MiB, too many for what is read here"
            raise StorageError(self.path(name), problem, "take it away")
        return content

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The file, open for reading at any place."""
        with self._typed_errors(self.path(name)), self._open(name) as file:
            yield file

    def path(self, name: str) -> str:
        """Full path of the file, as errors name it."""
        return f"{self.address}/{name}"

    @abstractmethod
    def _entries(self, pattern: str) -> Iterable[Entry]: ...

    @abstractmethod
    def _open(self, name: str) -> AbstractContextManager[IO[bytes]]: ...

    @contextmanager
    def _typed_errors(self, subject: str) -> Iterator[None]:
        try:
            yield
        except L2CError:
            raise
        except Exception as error:
            # Errors of the file system, and whatever damaged content makes a library raise.
            reason = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
            problem = f"cannot be read ({(reason or type(error).__name__).splitlines()[0]})"
            remedy = "check the path" if isinstance(error, OSError) else "get it again"
            raise StorageError(subject, problem, remedy) from error


def is_hidden(name: str) -> bool:
    """Whether the file or a folder around it has a name that systems and tools give to files that are no data."""
    return any(map(_HIDDEN.fullmatch, name.split("/")))


def compiled_glob(pattern: str) -> re.Pattern[str]:
    """The glob as a regular expression: `*` matches within a name, `**` any folders.

    Raises:
        ValueError: it is not a valid glob.
    """
    from fsspec.utils import glob_translate

    return re.compile(glob_translate(pattern))
