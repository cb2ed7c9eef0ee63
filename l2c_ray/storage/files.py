"""Files that appear whole: written beside their place, flushed to disk, then renamed into it."""

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO

from l2c_ray.errors import StorageError
from l2c_ray.storage.addresses import UNFINISHED

MOST_TEXT_BYTES = 16 << 20
"""Size limit of a text file: a schedule of 1000 steps and 180 units with two coefficients each takes half of it."""


def from_root(path: Path) -> Path:
    """The absolute path.

    Raises:
        StorageError: it is relative to a working folder that was deleted.
    """
    try:
        return path.absolute()
    except FileNotFoundError as error:
        problem = "is relative, and the working folder was deleted"
        raise StorageError(str(path), problem, "change to a folder that is there") from error


def home() -> Path:
    """Folder of everything that the user gave no other place: `$L2C_HOME`, or `~/.l2c_ray`.

    Raises:
        StorageError: there is neither that variable nor a home directory; or as `from_root`.
    """
    try:
        return from_root(Path(os.environ.get("L2C_HOME") or "~/.l2c_ray").expanduser())
    except RuntimeError as error:
        problem = "names no folder, and this user has no home directory"
        raise StorageError("L2C_HOME", problem, "set it to a folder you may write") from error


def make_writable(folder: Path) -> Path:
    """The folder, created if missing.

    Raises:
        StorageError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise StorageError(
            str(folder), f"cannot be written ({error.strerror})", "name a folder you may write"
        ) from error


def require_writable(file: Path) -> None:
    """Refuses a file that could not be written in the end; creates its missing folders.

    Raises:
        StorageError: it is a folder, or cannot be written.
    """
    make_writable(file.parent)
    with cannot_be_written(file):
        if file.is_dir():
            raise StorageError(str(file), "is a folder", "name a file")


def write_bytes(path: Path, content: bytes, mode: int = 0o666) -> Path:
    """Writes the file whole or not at all, and creates missing folders.

    Args:
        mode: permissions, of which the umask removes some; at no time are they wider.

    Raises:
        StorageError: the file or its folder cannot be written.
    """
    with writing(path, mode) as file:
        file.write(content)
    return path


@contextmanager
def writing(path: Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """A file that appears at `path`, as by `write_bytes`, when the context ends without an error.

    Raises:
        StorageError: the file or its folder cannot be written.
    """
    make_writable(path.parent)
    temporary = ""
    try:
        with cannot_be_written(path):
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                # Temporary files are made so that only their owner may read or write.
                os.fchmod(file.fileno(), mode & ~_umask())
                Path(temporary).replace(path)
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


@contextmanager
def cannot_be_written(path: Path) -> Iterator[None]:
    """Converts errors of the file system into a `StorageError` that names the path."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            str(path), f"cannot be written ({error.strerror})", "free space or change the place"
        ) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock between the processes and threads of this machine; it is released when its process ends.

    Args:
        path: a file that exists while the lock is held or waited for.

    Raises:
        StorageError: the file cannot be made.
    """
    while True:
        with cannot_be_written(path):
            handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # The previous holder removed the file, and another process may have created it again.
            if _is_at(handle, path):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        finally:
            os.close(handle)


def write_text(path: Path, content: str, mode: int = 0o666) -> Path:
    """Writes text in UTF-8, as `write_bytes`."""
    return write_bytes(path, content.encode(), mode)


def read_text(path: Path, most: int = MOST_TEXT_BYTES) -> str:
    """The file's text, without the byte order mark that editors on Windows add.

    Raises:
        StorageError: it is missing, unreadable, larger than `most` bytes, not a regular file, or not UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StorageError(str(path), "is not text in UTF-8", "save it as UTF-8") from error


def read_bytes(path: Path, most: int) -> bytes:
    """The file's content.

    Raises:
        StorageError: it is missing, unreadable, larger than `most` bytes, or not a regular file.
    """
    with opened(path) as file:
        try:
            content = file.read(most + 1)
        except OSError as error:
            raise _unreadable(path, str(error.strerror)) from error
    if len(content) > most:
        raise StorageError(str(path), f"has more than {most} bytes, too many to be what is read here", "check the path")
    return content


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """The file, open for reading; devices and pipes, which may never end or never answer, are refused.

    Raises:
        StorageError: it is missing, unreadable, or not a regular file.
    """
    try:
        # Without O_NONBLOCK opening a pipe would wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        # ValueError: a null byte in the path.
        raise _unreadable(path, error.strerror if isinstance(error, OSError) else str(error)) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _unreadable(path, "it is no ordinary file")
    with os.fdopen(handle, "rb") as file:
        yield file


def _unreadable(path: Path, reason: str | None) -> StorageError:
    return StorageError(str(path), f"cannot be read ({reason})", "check the path")


def _umask() -> int:
    # The umask can only be read by setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
