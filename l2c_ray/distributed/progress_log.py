"""Progress on its way to MLflow, which may be away for a while: learning does not wait for it."""

import logging
import math
import time
from collections.abc import Sequence

from l2c_ray.errors import L2CError
from l2c_ray.learning.learner import Progress
from l2c_ray.registry.tracking import TrackedRun

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0


class ProgressLog:
    """Logs iterations as metrics. What the server does not take is kept and tried again later."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self._waiting: dict[int, dict[str, float]] = {}
        self._failing = False
        self._next_try = 0.0

    def add(self, news: Sequence[Progress]) -> None:
        """Logs them now, or with a later call if the server does not take them."""
        self._waiting |= {progress.iteration: _finite_metrics(progress) for progress in news}
        if self._waiting and time.monotonic() >= self._next_try:
            self._send()

    def close(self) -> None:
        """Tries what is left for the last time, and says what MLflow will never see."""
        if self._waiting:
            self._send()
        if self._waiting:
            _log.warning("the progress of %d iterations is not in MLflow", len(self._waiting))

    def _send(self) -> None:
        try:
            self._run.log_metrics(self._waiting)
        except L2CError as error:
            if not self._failing:
                _log.warning("%s. Learning goes on; its progress is logged later", error)
            self._failing = True
            self._next_try = time.monotonic() + _RETRY_SECONDS
        else:
            self._waiting = {}
            self._failing = False


def _finite_metrics(progress: Progress) -> dict[str, float]:
    metrics = {"error": progress.error, "loss": progress.loss, "mean_score": progress.mean_score}
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
