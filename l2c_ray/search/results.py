"""What is asked of a trial and what comes of it, in words that need neither Optuna nor Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

WARM_FROM = "warm_from"
"""Key, in a trial's record and its schedules' provenance, of the trial that it was warm-started from."""

Outcome = Literal["finished", "pruned", "failed", "lost"]


@dataclass(frozen=True)
class Point:
    """One measured schedule."""

    settings: Mapping[str, str | float]
    """What it has for itself among the schedules of its trial, for instance a threshold."""
    compute_share: float
    mse: float
    seconds: float
    """Of sampling the protocol's images."""
    schedule: str
    """Its name in the storage of the study's trials."""
    sha256: str
    """Of the schedule."""

    def as_attributes(self) -> dict[str, Any]:
        """As they are noted beside a trial, for a person to read."""
        measured = {"compute_share": self.compute_share, "mse": self.mse, "seconds": self.seconds}
        return {**self.settings, **measured, "schedule": self.schedule, "sha256": self.sha256}


@dataclass(frozen=True)
class Order:
    """A trial that somebody is to run."""

    number: int
    origin: int
    """The number of its first try; what that one left behind, this one goes on with."""
    params: Mapping[str, Any]
    warm_from: int | None
    """The origin of the finished trial that it may begin from."""


@dataclass(frozen=True)
class Result:
    """How a trial ended."""

    outcome: Outcome
    """`lost` where whoever ran it died; it may be run again."""
    reason: str = ""
    points: tuple[Point, ...] = ()
    """The trial's own first; the others are derived from it."""
