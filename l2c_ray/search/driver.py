"""The loop of one driver: asks the study for trials, runs them side by side, and tells it their results."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from l2c_ray.errors import UnreachableError
from l2c_ray.learning.progress import Progress
from l2c_ray.search.leases import Ledger
from l2c_ray.search.results import Result, TrialSpec

_POLL_SECONDS = 0.5
_REPORTS_A_TRIAL = 20


class Executor(Protocol):
    """Runs every trial that it is given at once, for instance on a cluster."""

    def submit(self, spec: TrialSpec) -> None:
        """Starts a trial."""

    def results(self, seconds: float) -> Mapping[int, Result]:
        """Results of the trials that have ended since the last call; waits for one, `seconds` at most."""

    def progress(self) -> Mapping[int, Sequence[Progress]]:
        """Iterations since the last call, by trial."""

    def stop(self, number: int) -> None:
        """Asks a trial to stop; its result is `pruned`, or comes too late."""


def drive(
    ledger: Ledger,
    executor: Executor,
    parallel: int,
    iterations: int,
    watch: Callable[[Progress], float] | None,
    warm_start: bool,
    on_change: Callable[[Result | None], None],
    check: Callable[[], None],
) -> None:
    """Runs trials until the study has as many finished ones as are wanted, by this driver or by others.

    Args:
        parallel: trials at a time.
        iterations: iterations of a trial, about.
        watch: the number in a trial's progress by which bad trials are stopped early; None to stop none.
        on_change: called with the result of every trial of this driver, and with None in every round.
        check: called in every round; an error that it raises ends the search and gives this driver's trials back.

    Raises:
        UnreachableError: the study's database, or the storage of its trials, was away for too long; the running
            trials are run again when their leases have expired.
    """
    running: set[int] = set()
    reporter = _Reporter(ledger, watch, max(1, iterations // _REPORTS_A_TRIAL)) if watch else None
    try:
        while True:
            check()
            while len(running) < parallel and (spec := ledger.ask(warm_start)) is not None:
                executor.submit(spec)
                running.add(spec.number)
            if not running and ledger.is_over():
                return
            for number, result in executor.results(_POLL_SECONDS).items():
                if number in running:
                    running.remove(number)
                    if ledger.tell(number, result):
                        on_change(result)
            on_change(None)
            stopped = set(ledger.renew())
            running -= stopped
            progress = executor.progress()
            if reporter:
                stopped |= reporter.report(progress)
            for number in stopped:
                executor.stop(number)
    except UnreachableError:
        # The database might not take the trials back; their leases expire.
        raise
    except BaseException:
        ledger.release()
        raise


class _Reporter:
    """Reports intermediate values of trials to the study, about twenty for each."""

    def __init__(self, ledger: Ledger, watch: Callable[[Progress], float], every: int) -> None:
        self._ledger = ledger
        self._watch = watch
        self._every = every
        self._seen: dict[int, list[float]] = {}

    def report(self, progress: Mapping[int, Sequence[Progress]]) -> set[int]:
        """Reports the progress; returns the trials to be pruned."""
        pruned = set()
        for number, iterations in progress.items():
            for each in iterations:
                seen = self._seen.setdefault(number, [])
                seen.append(self._watch(each))
                if each.iteration % self._every == 0:
                    if self._ledger.report(number, each.iteration, sum(seen) / len(seen)):
                        pruned.add(number)
                    seen.clear()
        return pruned
