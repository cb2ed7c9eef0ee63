"""Retries with growing pauses until a deadline, for servers that may be away for a while.

No library serves both users: botocore's hook wants the next pause, and decorators like tenacity's only wrap functions.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from l2c_ray.logs import logger

RETRY_SECONDS = 60.0
"""Default retry deadline, counted from the first failure; an attempt that has begun by then may take longer."""

_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 4.0
_NOTICE_SECONDS = 3.0
"""Outages shorter than this are not logged."""

_Result = TypeVar("_Result")

_log = logger(__name__)


class Backoff:
    """Pauses between the attempts of one operation: 0.25 s, doubled each time up to 4 s, until the deadline.

    Args:
        seconds: retry deadline, counted from the first failure, since the operation itself may take long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._pause = _FIRST_PAUSE
        self._failed_at: float | None = None
        self._warned = False

    def pause_after(self, error: Exception) -> float | None:
        """Seconds until the next attempt, the last of which begins at the deadline; None after that."""
        now = time.monotonic()
        self._failed_at = now if self._failed_at is None else self._failed_at
        waited = now - self._failed_at
        if waited >= self._seconds:
            return None
        if waited > _NOTICE_SECONDS and not self._warned:
            self._warned = True
            _log.warning("%s. Trying again for %.0f s", error, self._seconds)
        pause, self._pause = min(self._pause, self._seconds - waited), min(2 * self._pause, _LONGEST_PAUSE)
        return pause


def retry(attempt: Callable[[], _Result], seconds: float, errors: tuple[type[Exception], ...]) -> _Result:
    """The attempt's result; the attempt is repeated while it raises one of `errors`, until the retry deadline.

    Raises:
        Exception: the last attempt's error.
    """
    backoff = Backoff(seconds)
    while True:
        try:
            return attempt()
        except errors as error:
            pause = backoff.pause_after(error)
            if pause is None:
                raise
        time.sleep(pause)
