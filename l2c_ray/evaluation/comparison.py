"""A comparison: the baseline, the schedules in question and their rivals, each held by name instead of by position."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Comparison(Generic[T]):
    """One `T` for each participant: a candidate before a measurement, its result afterwards."""

    baseline: T
    """Computes everything; all others are compared with it."""
    schedules: dict[str, T]
    """The schedules, by name."""
    rivals: tuple[T, ...] = ()
    """Other ways to save compute: fewer steps, rules."""

    def __iter__(self) -> Iterator[T]:
        """Iterates over the baseline, the schedules and the rivals, the order in which they are run and shown."""
        yield self.baseline
        yield from self.schedules.values()
        yield from self.rivals

    def with_results(self, results: Iterable[R]) -> "Comparison[R]":
        """The same comparison with one result for each participant, given in the order of iteration."""
        baseline, *others = results
        schedules = dict(zip(self.schedules, others, strict=False))
        return Comparison(baseline, schedules, tuple(others[len(schedules) :]))
