"""Files that appear whole: written beside their place, flushed to disk, then renamed into it."""

import os
import tempfile
from pathlib import Path

from l2c_ray.errors import StorageError


def home() -> Path:
    """Where everything goes that the user gave no place: `$L2C_HOME`, or `~/.l2c_ray`."""
    return Path(os.environ.get("L2C_HOME") or Path.home() / ".l2c_ray").absolute()


def make_writable(folder: Path) -> Path:
    """The folder, made if missing.

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


def write_bytes(path: Path, content: bytes, mode: int = 0o666) -> Path:
    """Writes the file so that it is either there whole or not at all; missing folders are made.

    Its permissions are those of `mode` that the umask leaves, and never wider before it is whole.

    Raises:
        StorageError: the file or its folder cannot be written.
    """
    make_writable(path.parent)
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            # mkstemp makes files that only their owner may read or write.
            os.fchmod(file.fileno(), mode & ~_umask())
        Path(temporary).replace(path)
    except OSError as error:
        raise StorageError(
            str(path), f"cannot be written ({error.strerror})", "free space or change the place"
        ) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
    return path


def write_text(path: Path, content: str, mode: int = 0o666) -> Path:
    """As `write_bytes`, in UTF-8."""
    return write_bytes(path, content.encode(), mode)


def read_text(path: Path) -> str:
    """The file's text.

    Raises:
        StorageError: it is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise StorageError(str(path), f"cannot be read ({reason})", "check the path") from error


def _umask() -> int:
    # The umask can only be read by setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
