"""Ends of a job: an orderly stop on SIGTERM while there is time for one, and the status that MLflow is told.

`ray job stop` sends it and kills three seconds later, or when `$RAY_JOB_STOP_WAIT_TIME_S` of the cluster says so.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import psutil

from l2c_ray.errors import ConfigError, LearningStoppedError
from l2c_ray.registry.tracking import TrackedRun

_WAIT_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
_WAIT_SECONDS = 3.0
_RESERVE_SECONDS = 1.0
"""Part of Ray's wait that is kept for ending the process where no orderly stop came about."""
_LAST_SECONDS = 0.5
"""Part of the reserve left for actions still under way."""

Action = Callable[[], object]


class Stopping:
    """A stop of a run that may be requested, and the actions that bring it about."""

    def __init__(self, error: LearningStoppedError, grace_seconds: float) -> None:
        """A stop that ends the run with `error` and allows `grace_seconds` for an orderly end."""
        self.requested = False
        self.error = error
        self.grace_seconds = grace_seconds
        self._asks: list[Action] = []
        self._over = threading.Event()
        self._ending = threading.Lock()

    def ask_by(self, action: Action) -> None:
        """Adds an action for a stop that is requested after this, such as telling the workers."""
        self._asks.append(action)

    def check(self) -> None:
        """Raises LearningStoppedError if a stop was requested."""
        if self.requested:
            raise self.error

    def watch(self, signals: socket.socket) -> None:
        """Stops the run when the number of SIGTERM arrives; returns when the socket is closed."""
        with signals:
            while arrived := signals.recv(64):
                if signal.SIGTERM in arrived and not self.requested and not self._over.is_set():
                    self.requested = True
                    self._see_to_it()

    def end(self) -> None:
        """Marks the run as over, stopped or not. Does not return while the process is being ended."""
        with self._ending:
            self._over.set()

    def _see_to_it(self) -> None:
        asking = threading.Thread(target=self._ask, name="stopping-asks", daemon=True)
        asking.start()
        self._over.wait(self.grace_seconds)
        with self._ending:
            if not self._over.is_set():
                self._end_process(asking)

    def _end_process(self, asking: threading.Thread) -> NoReturn:
        # The reader of stderr may be gone.
        with suppress(OSError):
            print(f"error: {self.error}", file=sys.stderr, flush=True)
        asking.join(_LAST_SECONDS)
        # Processes of a private Ray, some of which would outlive this process for long.
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        os._exit(self.error.exit_code)

    def _ask(self) -> None:
        for action in self._asks:
            # Ray or MLflow may be broken; that must not keep the process from ending.
            with suppress(Exception):
                action()


def stopped(name: str, kind: str = "run") -> LearningStoppedError:
    """The error of a stopped run, or of a stopped study with `kind` study; both are resumed by name."""
    return LearningStoppedError(f"{kind} {name}", "was stopped", f"go on with --set {kind}.name={name}")


@contextmanager
def stops_on_sigterm(name: str, kind: str = "run") -> Iterator[Stopping]:
    """While the context lasts, SIGTERM asks for a stop, and ends the process shortly before Ray would kill it.

    A thread reads the signal from a socket. A handler would wait for the main thread, which Ray holds for a second at
    a time, one of Ray's three.
    """
    stopping = Stopping(stopped(name, kind), _grace_seconds())
    arriving, sending = socket.socketpair()
    threading.Thread(target=stopping.watch, args=(arriving,), name="stopping", daemon=True).start()
    with sending:
        sending.setblocking(False)
        written_before = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
        # Without a handler of Python's own nothing would be written.
        handled_before = signal.signal(signal.SIGTERM, lambda _signal, _frame: None)
        try:
            yield stopping
        finally:
            stopping.end()
            signal.set_wakeup_fd(written_before)
            signal.signal(signal.SIGTERM, handled_before)


@contextmanager
def ending(run: TrackedRun) -> Iterator[None]:
    """Marks the MLflow run as ended when the context ends, with the status that belongs to how it ended."""
    try:
        yield
    except (LearningStoppedError, SystemExit, KeyboardInterrupt):
        run.end("KILLED")
        raise
    except BaseException:
        run.end("FAILED")
        raise
    run.end("FINISHED")


def _grace_seconds() -> float:
    given = os.environ.get(_WAIT_VARIABLE) or _WAIT_SECONDS
    try:
        return max(0.0, float(given) - _RESERVE_SECONDS)
    except ValueError as error:
        raise ConfigError(
            _WAIT_VARIABLE, "is no number of seconds", "set it as the cluster has it, or unset it"
        ) from error
