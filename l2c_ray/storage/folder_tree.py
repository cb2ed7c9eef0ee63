"""Files of others below a folder of this machine."""

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from l2c_ray.errors import StorageError
from l2c_ray.storage import files
from l2c_ray.storage.trees import Entry, FileTree, compiled_glob, is_hidden


class FolderTree(FileTree):
    """Files below a folder; only ordinary ones are opened."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._root = path

    def _entries(self, pattern: str) -> list[Entry]:
        found: list[Entry] = []
        found_as: dict[tuple[int, int], str] = {}
        repeated: dict[str, str] = {}
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            path = self._root / folder
            with self._typed_errors(str(path)):
                status = path.stat()
                first = found_as.setdefault((status.st_dev, status.st_ino), folder)
                if first != folder:
                    repeated[folder] = first
                    continue
                inside = [_entry(each, f"{folder}/{each.name}".lstrip("/")) for each in os.scandir(path)]
            found += inside
            folders = sorted(entry.name for entry in inside if entry.kind == "folder")
            waiting += [name for name in folders if not is_hidden(name) and _may_choose_below(pattern, name)]
        self._require_once(repeated, found, pattern)
        return found

    def _require_once(self, repeated: Mapping[str, str], found: Sequence[Entry], pattern: str) -> None:
        """Refuses folders that links repeat, if the glob chooses a file by more than one of their names."""
        chosen = compiled_glob(pattern)
        names = [entry.name for entry in found if entry.kind == "file" and not is_hidden(entry.name)]
        for folder, first in repeated.items():
            below = f"{first}/" if first else ""
            if any(chosen.match(f"{folder}/{name[len(below) :]}") for name in names if name.startswith(below)):
                problem = f"is the same folder as {self._root / first}"
                raise StorageError(str(self._root / folder), problem, "remove one of the two links")

    def _open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        return files.opened(self._root / name)


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
