"""Exit codes of commands, and the line on stderr that names what is wrong."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from l2c_ray.errors import L2CError, OutputError


@contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Ends the process with the exit code of a typed error, also if results cannot be written."""
    _replace_standard_streams()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except L2CError as error:
        if isinstance(error, OutputError):
            # Its buffer is written once more when the process ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, _NoReaderError):
            print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


class _NoReaderError(OutputError):
    """The reader of the output (`| head`) has closed it, and need not be told."""


class _Output(io.FileIO):
    """Standard output, with typed errors."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            kind = _NoReaderError if isinstance(error, BrokenPipeError) else OutputError
            problem = f"cannot be written ({error.strerror}), so that results are lost"
            raise kind("standard output", problem, "free space, or write to another place") from error


class _Notes(io.FileIO):
    """Standard error; work goes on if it cannot be written."""

    def write(self, data: Any, /) -> int:
        with suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


def _replace_standard_streams() -> None:
    """Replaces stdout and stderr by the above, and opens closed streams, so that no file gets their numbers."""
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Output, sys.stdout)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Notes, sys.stderr)


def _text(kind: type[io.FileIO], before: Any) -> TextIO:
    """The stream on a file of this kind; for a closed one, a stream that cannot be written."""
    if before is None:
        return io.TextIOWrapper(io.BufferedWriter(kind(os.open(os.devnull, os.O_RDONLY), "w")))
    before.flush()
    raw = kind(before.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding,
        # Not every terminal knows the characters of tables and masks.
        errors="replace",
        line_buffering=before.line_buffering or before.write_through,
    )
