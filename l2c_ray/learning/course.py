"""Which shares of compute a trajectory learner goes through: those it is given, or those that lead to an error."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from l2c_ray.config.learn import RouterSection
from l2c_ray.errors import ConfigError


@dataclass(frozen=True)
class Found:
    """What the router had learned at the end of a phase."""

    mask: Tensor
    coefficients: Tensor
    """Both [steps - 1, units]."""
    share: float
    """Of the full run's cost."""
    error: float
    """Mean squared error to the full run on noise that nothing is learned from; not a number where nobody asked."""


@dataclass(frozen=True)
class Phase:
    """What the router does next: from where, to which share."""

    start: Found
    target: float


class Course(ABC):
    """A number of phases, each of which tightens to a share of its own."""

    phases: int
    measures: bool
    """Whether what a phase finds must be measured."""

    @abstractmethod
    def next(self, found: Sequence[Found]) -> Phase:
        """The phase after those that found this; the first one found is the full run."""

    @abstractmethod
    def results(self, found: Sequence[Found]) -> list[Found]:
        """What is worth a schedule of what was found so far."""


def make_course(router: RouterSection, least_share: float) -> Course:
    """The course to what the config asks for.

    Args:
        least_share: what no schedule can go below.

    Raises:
        ConfigError: a budget is below it.
    """
    if router.max_error is not None:
        return ErrorCeiling(router.max_error, least_share)
    if router.budgets[-1] < least_share:
        key = "router.time_budget" if router.time_budget else "router.budget"
        problem = (
            f"{router.budgets[-1]} is less than {least_share:.4f}, the share of step 0 and of what no schedule can skip"
        )
        raise ConfigError(key, problem, "raise it")
    return GivenBudgets(router.budgets)


class GivenBudgets(Course):
    """One budget after another, from loose to tight, each from where the one before ended."""

    measures = False

    def __init__(self, budgets: Sequence[float]) -> None:
        self._budgets = budgets
        self.phases = len(budgets)

    def next(self, found: Sequence[Found]) -> Phase:
        return Phase(found[-1], self._budgets[len(found) - 1])

    def results(self, found: Sequence[Found]) -> list[Found]:
        return list(found[1:])


class ErrorCeiling(Course):
    """Tightens as long as the error stays below a ceiling, then closes in on the share where it reaches it.

    Between a share that keeps below and a cheaper one that does not, the error is taken to grow exponentially, which
    it about does along a frontier.
    """

    phases = 8
    measures = True

    def __init__(self, ceiling: float, least_share: float) -> None:
        """`least_share` is what no schedule can go below."""
        self._ceiling = ceiling
        self._least = least_share

    def next(self, found: Sequence[Found]) -> Phase:
        best = self._cheapest(found)
        failed = [other for other in found if other.share < best.share]
        if not failed:
            return Phase(best, max(self._least, _BOLDNESS * best.share))
        worse = max(failed, key=lambda other: other.share)
        return Phase(best, best.share - self._part(best, worse) * (best.share - worse.share))

    def results(self, found: Sequence[Found]) -> list[Found]:
        return [self._cheapest(found)]

    def _cheapest(self, found: Sequence[Found]) -> Found:
        return min((each for each in found if each.error <= self._ceiling), key=lambda each: each.share)

    def _part(self, best: Found, worse: Found) -> float:
        """Of the way from one to the other."""
        if not best.error or not math.isfinite(worse.error):
            return 0.5
        part = math.log(self._ceiling / best.error) / math.log(worse.error / best.error)
        return min(max(part, _MARGIN), 1 - _MARGIN)


_BOLDNESS = 0.7
"""Of the share, while no ceiling is in sight."""
_MARGIN = 0.2
"""A phase goes at least so much of the way, and at most all but so much."""
