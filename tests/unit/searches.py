"""Searches whose trials take a moment, in this process or in one that imports little else."""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from search_factories import Driver, finished, point, search_config

from l2c_ray.learning.progress import Progress
from l2c_ray.search.driver import drive
from l2c_ray.search.results import Order, Result

TRIALS = 15


class Here:
    """Runs trials one after the other in this process."""

    def __init__(self, run: Callable[[Order], Result], errors: Sequence[float] = ()) -> None:
        self._run = run
        self._errors = errors
        self._waiting: list[Order] = []
        self._news: dict[int, list[Progress]] = {}
        self.stopped: list[int] = []

    def submit(self, order: Order) -> None:
        self._waiting.append(order)
        self._news[order.number] = [
            Progress(iteration, error, error, 1.0) for iteration, error in enumerate(self._errors, start=1)
        ]

    def results(self, seconds: float) -> Mapping[int, Result]:
        if not self._waiting:
            time.sleep(0.05)
            return {}
        if self._news:
            return {}
        order = self._waiting.pop(0)
        return {order.number: Result("pruned") if order.number in self.stopped else self._run(order)}

    def news(self) -> Mapping[int, Sequence[Progress]]:
        news, self._news = self._news, {}
        return news

    def stop(self, number: int) -> None:
        self.stopped.append(number)


def takes_a_moment(order: Order) -> Result:
    time.sleep(0.02)
    return finished(point(mse=float(order.params["router.lambda"])), point(mse=1.0, theta=0.7))


def work(run: Callable[[Order], Result] = takes_a_moment, check: Callable[[], None] = lambda: None) -> Driver:
    config = search_config(study={"trials": TRIALS, "lease_seconds": 1.0, "parallel": 3, "max_retries": 1})
    driver = Driver(config, f"driver-{os.getpid()}-{time.monotonic_ns()}", time.time)
    drive(driver.ledger, Here(run), 3, 1, None, False, lambda result: None, check)
    return driver


def work_elsewhere(environment: Mapping[str, str], begun: Path, endless: bool) -> None:
    """In a process that does not have this one's variables; the file appears when a trial begins.

    An `endless` trial goes on until its driver is killed.
    """
    os.environ.update(environment)

    def tells_that_it_began(order: Order) -> Result:
        begun.touch()
        if endless:
            signal.pause()
        return takes_a_moment(order)

    work(tells_that_it_began)
