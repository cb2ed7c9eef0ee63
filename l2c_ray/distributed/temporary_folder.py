"""Where a Ray that is started on this machine has its sockets and logs: a folder that nobody else gets into."""

import os
import tempfile
from pathlib import Path

from l2c_ray.storage.files import make_writable

_LONGEST = 16
_SYSTEM = f"{os.sep}tmp"


def make_temporary_folder() -> Path:
    """One of the user's own, to be removed when that Ray has ended.

    Raises:
        StorageError: it cannot be made.
    """
    return Path(tempfile.mkdtemp(prefix="l2c-ray-", dir=make_writable(_parent())))


def temp_dir_in(folder: Path) -> Path:
    """The folder that Ray gets as its own. Ray opens that one to everybody, so it lies inside a private one."""
    return folder / "ray"


def _parent() -> Path:
    """The user's, unless it is too long: sockets live in it whose whole paths may have 107 characters."""
    usual = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return Path(usual if len(usual) <= _LONGEST else _SYSTEM)
