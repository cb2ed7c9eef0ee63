"""Logging of progress to MLflow, which may be away for a while without holding training up."""

import math
import time
from collections.abc import Sequence

from l2c_ray.errors import L2CError
from l2c_ray.learning.progress import Progress
from l2c_ray.logs import logger
from l2c_ray.registry.tracking import TrackedRun

_log = logger(__name__)

_RETRY_SECONDS = 5.0


class ProgressLog:
    """Logs iterations as metrics; those that the server does not take are kept and tried again later."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self.waiting: dict[int, dict[str, float]] = {}
        """Metrics that the server has not taken, by iteration."""
        self._failing = False
        self._next_try = 0.0

    def add(self, reported: Sequence[Progress]) -> None:
        """Logs the iterations now, or with a later call if the server does not take them."""
        self.waiting |= {progress.iteration: _finite_metrics(progress) for progress in reported}
        if self.waiting and time.monotonic() >= self._next_try:
            self._send()

    def close(self) -> None:
        """Tries to log the rest for the last time."""
        if self.waiting:
            self._send()
        if self.waiting:
            _log.warning("the progress of %d iterations is not in MLflow", len(self.waiting))

    def _send(self) -> None:
        try:
            self._run.log_metrics(self.waiting)
        except L2CError as error:
            if not self._failing:
                _log.warning("%s. Learning goes on; its progress is logged later", error)
            self._failing = True
            self._next_try = time.monotonic() + _RETRY_SECONDS
        else:
            self.waiting = {}
            self._failing = False


def _finite_metrics(progress: Progress) -> dict[str, float]:
    metrics = {"error": progress.error, "loss": progress.loss, "mean_score": progress.mean_score}
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
