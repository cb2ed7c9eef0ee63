"""The file of a study without a database: Optuna's journal, made safe against full disks and killed writers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from l2c_ray.errors import StorageError
from l2c_ray.storage.files import cannot_be_written

_DEAD_WRITERS_SECONDS = 5
"""Age from which a lock counts as left by a driver that was killed while writing, which takes milliseconds."""


class Journal(JournalFileBackend):
    """Optuna's journal file with whole lines only, since lines behind half a line could not be read.

    Raises:
        StorageError: by whatever writes, where the disk is full or the file may not be written; the line is not in it.
            By whatever reads, where a line of it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.exists() and not path.is_file():
            raise StorageError(str(path), "is no ordinary file", "remove it or choose another study.name")
        self._writers_lock = JournalFileSymlinkLock(str(path), grace_period=_DEAD_WRITERS_SECONDS)
        with cannot_be_written(path):
            super().__init__(str(path), self._writers_lock)
            self._take_back_half_a_line()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        try:
            for number, entry in enumerate(super().read_logs(log_number_from), start=log_number_from + 1):
                if not isinstance(entry, dict) or "op_code" not in entry:
                    raise ValueError(f"line {number} is no entry")
                yield entry
        except (OSError, ValueError, RecursionError) as error:
            raise damaged(self._path, error) from error

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with cannot_be_written(self._path):
            try:
                super().append_logs(logs)
            except OSError:
                self._take_back_half_a_line()
                raise

    def _take_back_half_a_line(self) -> None:
        self._writers_lock.acquire()
        try:
            with self._path.open("r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
        finally:
            self._writers_lock.release()


def damaged(path: Path, error: Exception) -> StorageError:
    """The error of a journal that cannot be read."""
    problem = f"is no journal of a study or is damaged ({type(error).__name__}: {error})"
    return StorageError(str(path), problem, "move it away or choose another study.name")
