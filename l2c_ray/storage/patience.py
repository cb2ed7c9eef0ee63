"""Waiting for a server that is away, with growing pauses and no longer than was agreed."""

import time
from collections.abc import Callable
from typing import TypeVar

from l2c_ray.errors import UnreachableError
from l2c_ray.logs import logger

_log = logger(__name__)

_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 4.0
_NOTICE_SECONDS = 3.0
"""How long a server may be away before that is worth a message."""

Result = TypeVar("Result")


class Patience:
    """So many seconds without progress; how long one attempt takes is up to who makes it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._told = False
        self.renew()

    def renew(self) -> None:
        """There was progress."""
        self._since = time.monotonic()
        self._pause = _FIRST_PAUSE

    def wait(self, error: UnreachableError) -> None:
        """Pauses before the next attempt, each time twice as long, up to 4 s.

        Raises:
            UnreachableError: the one given, when the time is over.
        """
        waited = time.monotonic() - self._since
        if waited + self._pause > self._seconds:
            raise error
        if waited > _NOTICE_SECONDS and not self._told:
            self._told = True
            _log.warning("%s. Trying again for %.0f s", error, self._seconds)
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def patiently(seconds: float, attempt: Callable[[], Result]) -> Result:
    """What the attempt gives, made again while it raises an `UnreachableError` and there is time.

    Raises:
        UnreachableError: of the last attempt.
    """
    patience = Patience(seconds)
    while True:
        try:
            return attempt()
        except UnreachableError as error:
            patience.wait(error)
