"""Trial specs and results, which need neither Optuna nor Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

WARM_FROM = "warm_from"
"""Key of the trial that a trial was warm-started from, in its record and in its schedules' provenance."""

Outcome = Literal["finished", "pruned", "failed", "lost"]


@dataclass(frozen=True)
class ScheduleMeasurement:
    """Measured cost and error of one schedule of a trial."""

    settings: Mapping[str, str | float]
    """Settings that only this schedule of the trial has, for instance a threshold."""
    compute_share: float
    mse: float
    seconds: float
    """Sampling time of the protocol's images."""
    schedule: str
    """Name of the schedule's file in the storage of the study's trials."""
    sha256: str
    """Hash of the schedule."""

    def as_attributes(self) -> dict[str, Any]:
        """User attributes of the trial, for a person to read."""
        measured = {"compute_share": self.compute_share, "mse": self.mse, "seconds": self.seconds}
        return {**self.settings, **measured, "schedule": self.schedule, "sha256": self.sha256}


@dataclass(frozen=True)
class TrialSpec:
    """A trial to run."""

    number: int
    origin: int
    """Number of its first attempt, whose checkpoints it continues from."""
    params: Mapping[str, Any]
    warm_from: int | None
    """Origin of the finished trial that it may begin from."""


@dataclass(frozen=True)
class Result:
    """Outcome of a trial."""

    outcome: Outcome
    """`lost` if the worker died; the trial may be run again."""
    reason: str = ""
    measurements: tuple[ScheduleMeasurement, ...] = ()
    """The trial's own schedule first, then those derived from it."""
