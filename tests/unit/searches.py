"""Searches whose trials take a moment, in this process or in one that imports little else."""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from search_factories import Driver, finished, measurement, search_config

from l2c_ray.learning.progress import Progress
from l2c_ray.search.driver import drive
from l2c_ray.search.results import Result, TrialSpec

TRIALS = 15


class Here:
    """Runs trials one after the other in this process."""

    def __init__(self, run: Callable[[TrialSpec], Result], errors: Sequence[float] = ()) -> None:
        self._run = run
        self._errors = errors
        self._waiting: list[TrialSpec] = []
        self._progress: dict[int, list[Progress]] = {}
        self.stopped: list[int] = []

    def submit(self, spec: TrialSpec) -> None:
        self._waiting.append(spec)
        self._progress[spec.number] = [
            Progress(iteration, error, error, 1.0) for iteration, error in enumerate(self._errors, start=1)
        ]

    def results(self, seconds: float) -> Mapping[int, Result]:
        if not self._waiting:
            time.sleep(0.05)
            return {}
        if self._progress:
            return {}
        spec = self._waiting.pop(0)
        return {spec.number: Result("pruned") if spec.number in self.stopped else self._run(spec)}

    def progress(self) -> Mapping[int, Sequence[Progress]]:
        progress, self._progress = self._progress, {}
        return progress

    def stop(self, number: int) -> None:
        self.stopped.append(number)


def takes_a_moment(spec: TrialSpec) -> Result:
    time.sleep(0.02)
    return finished(measurement(mse=float(spec.params["router.lambda"])), measurement(mse=1.0, theta=0.7))


def work(run: Callable[[TrialSpec], Result] = takes_a_moment, check: Callable[[], None] = lambda: None) -> Driver:
    config = search_config(study={"trials": TRIALS, "lease_seconds": 1.0, "parallel": 3, "max_retries": 1})
    driver = Driver(config, f"driver-{os.getpid()}-{time.monotonic_ns()}", time.time)
    drive(driver.ledger, Here(run), 3, 1, None, False, lambda result: None, check)
    return driver


def work_elsewhere(environment: Mapping[str, str], begun: Path, endless: bool) -> None:
    """In a process that does not have this one's variables; the file appears when a trial begins.

    An `endless` trial goes on until its driver is killed.
    """
    os.environ.update(environment)

    def tells_that_it_began(spec: TrialSpec) -> Result:
        begun.touch()
        if endless:
            signal.pause()
        return takes_a_moment(spec)

    work(tells_that_it_began)
