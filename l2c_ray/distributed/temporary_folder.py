"""The private folder with the sockets and logs of a Ray that is started on this machine."""

import os
import tempfile
from pathlib import Path

from l2c_ray.storage.files import make_writable

_LONGEST = 16
_SYSTEM = f"{os.sep}tmp"


def make_temporary_folder() -> Path:
    """A new folder of the user's own, to be removed when that Ray has ended.

    Raises:
        StorageError: it cannot be made.
    """
    return Path(tempfile.mkdtemp(prefix="l2c-ray-", dir=make_writable(_parent())))


def temp_dir_in(folder: Path) -> Path:
    """The folder for Ray inside a private one, since Ray opens its own to everybody."""
    return folder / "ray"


def _parent() -> Path:
    """The user's folder for temporary files, unless its path is too long for sockets, which may have 107 characters."""
    usual = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return Path(usual if len(usual) <= _LONGEST else _SYSTEM)
