"""The loop of one driver: asks the study for trials, has them run side by side, and tells it what came of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from l2c_ray.errors import UnreachableError
from l2c_ray.learning.progress import Progress
from l2c_ray.search.leases import Ledger
from l2c_ray.search.results import Order, Result

_POLL_SECONDS = 0.5
_REPORTS_A_TRIAL = 20


class Executor(Protocol):
    """Runs trials somewhere, as many at a time as it is given."""

    def submit(self, order: Order) -> None:
        """Starts a trial."""

    def results(self, seconds: float) -> Mapping[int, Result]:
        """Waits until a trial has ended, `seconds` at most; the results of those that have, each told once."""

    def news(self) -> Mapping[int, Sequence[Progress]]:
        """By trial, the iterations that were done since the last call."""

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
    """Runs trials until as many are finished as are wanted, by this driver or by others.

    Args:
        parallel: trials at a time.
        iterations: of a trial, about.
        watch: what of a trial's progress tells early whether it is any good; None where nothing is stopped early.
        on_change: called with the result of every trial of this driver, and with None now and then.
        check: called in every round; what it raises ends the search and gives this driver's trials back.

    Raises:
        UnreachableError: the study's database, or the storage of its trials, was away for too long; the trials that
            ran are taken up again when their leases are over.
    """
    flying: set[int] = set()
    reporter = _Reporter(ledger, watch, max(1, iterations // _REPORTS_A_TRIAL)) if watch else None
    try:
        while True:
            check()
            while len(flying) < parallel and (trial := ledger.claim(warm_start)) is not None:
                executor.submit(ledger.order_of(trial))
                flying.add(trial.number)
            if not flying and ledger.is_over():
                return
            for number, result in executor.results(_POLL_SECONDS).items():
                if number in flying:
                    flying.remove(number)
                    if ledger.settle(number, result):
                        on_change(result)
            on_change(None)
            stopped = set(ledger.renew())
            flying -= stopped
            news = executor.news()
            if reporter:
                stopped |= reporter.hopeless(news)
            for number in stopped:
                executor.stop(number)
    except UnreachableError:
        # The database might not take the trials back; their leases run out.
        raise
    except BaseException:
        ledger.release()
        raise


class _Reporter:
    """Tells the study how trials are doing, a number of times each."""

    def __init__(self, ledger: Ledger, watch: Callable[[Progress], float], every: int) -> None:
        self._ledger = ledger
        self._watch = watch
        self._every = every
        self._seen: dict[int, list[float]] = {}

    def hopeless(self, news: Mapping[int, Sequence[Progress]]) -> set[int]:
        """The trials that may as well stop."""
        found = set()
        for number, progress in news.items():
            for each in progress:
                seen = self._seen.setdefault(number, [])
                seen.append(self._watch(each))
                if each.iteration % self._every == 0:
                    if self._ledger.report(number, each.iteration, sum(seen) / len(seen)):
                        found.add(number)
                    seen.clear()
        return found
