"""What SIGTERM does: an orderly stop where there is time for one, and otherwise an end that leaves nothing open.

`ray job stop` sends it and kills three seconds later.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

from l2c_ray.errors import LearningStoppedError

GRACE_SECONDS = 2.0

Action = Callable[[], object]


class Stopping:
    """The wish to stop a run, and what is to be done about it."""

    def __init__(self, error: LearningStoppedError) -> None:
        self.requested = False
        self.error = error
        self._asks: list[Action] = []
        self._over = threading.Event()

    def ask_by(self, action: Action) -> None:
        """Done as soon as a stop is wished for: to tell the workers, and to mark what will not come to its end."""
        self._asks.append(action)

    def check(self) -> None:
        """Goes on only if nobody has asked to stop.

        Raises:
            LearningStoppedError: somebody has.
        """
        if self.requested:
            raise self.error

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Only starts a thread, since a handler may have interrupted anything, Ray in the middle of a call too."""
        if not self.requested:
            self.requested = True
            threading.Thread(target=self._see_to_it, name="stopping", daemon=True).start()

    def end(self) -> None:
        """The stop has come about, or nobody wished for it."""
        self._over.set()

    def _see_to_it(self) -> None:
        deadline = time.monotonic() + GRACE_SECONDS
        for action in self._asks:
            # Ray or MLflow may be what is broken; that must not keep the process from ending.
            with suppress(Exception):
                action()
        if self._over.wait(max(0.0, deadline - time.monotonic())):
            return
        print(f"error: {self.error}", file=sys.stderr, flush=True)
        # Those of a private Ray. Some of them would outlive this process for long.
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        os._exit(self.error.exit_code)


def stopped(name: str, kind: str = "run") -> LearningStoppedError:
    """The error of a run, or of something else that goes on by its name, that was stopped."""
    return LearningStoppedError(f"{kind} {name}", "was stopped", f"go on with --set {kind}.name={name}")


@contextmanager
def stops_on_sigterm(name: str, kind: str = "run") -> Iterator[Stopping]:
    """While the context lasts, SIGTERM asks for a stop and ends the process if none comes in `GRACE_SECONDS`."""
    stopping = Stopping(stopped(name, kind))
    before = signal.signal(signal.SIGTERM, stopping.on_signal)
    try:
        yield stopping
    finally:
        signal.signal(signal.SIGTERM, before)
        stopping.end()
