"""The compute shares that a trajectory learner goes through: given budgets, or those that close in on an error."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from l2c_ray.config.learn import RouterSection
from l2c_ray.errors import ConfigError


@dataclass(frozen=True)
class StageResult:
    """The router at the end of a stage."""

    mask: Tensor
    coefficients: Tensor
    """Both [steps - 1, units]."""
    share: float
    """Share of the baseline's cost, in (0, 1]."""
    error: float
    """Mean squared error to the baseline on noise that is held out; NaN where the curriculum does not measure."""


@dataclass(frozen=True)
class Stage:
    """Iterations in which the router tightens from a result to a share."""

    start: StageResult
    target: float
    """Share of the baseline's cost, in (0, 1]."""
    iterations: range

    def progress(self, iteration: int) -> float:
        """Share of the stage's iterations that is done after this one, in [0, 1]."""
        return (iteration + 1 - self.iterations.start) / len(self.iterations)


class BudgetCurriculum(ABC):
    """A fixed number of stages, which share the iterations of a run equally."""

    measures: ClassVar[bool]
    """Whether it needs the error of each stage's result."""

    def __init__(self, stages: int, iterations: int) -> None:
        """Both numbers are of the whole run.

        Raises:
            ConfigError: there are fewer iterations than stages.
        """
        if iterations < stages:
            problem = f"are {iterations}, too few for {stages} stages"
            raise ConfigError("training.iterations", problem, "raise them")
        self.stages = stages
        self._iterations = iterations

    def next(self, results: Sequence[StageResult]) -> Stage:
        """The stage after those with these results, the first of which is where the run began."""
        start, target = self._next(results)
        first, last = (-(-number * self._iterations // self.stages) for number in (len(results) - 1, len(results)))
        return Stage(start, target, range(first, last))

    @abstractmethod
    def outcome(self, results: Sequence[StageResult]) -> list[StageResult]:
        """The results that become schedules."""

    @abstractmethod
    def _next(self, results: Sequence[StageResult]) -> tuple[StageResult, float]:
        """Start and target of the stage after those with these results."""


class GivenBudgets(BudgetCurriculum):
    """One budget after another, from loose to tight, each from the result of the one before."""

    measures = False

    def __init__(self, budgets: Sequence[float], iterations: int) -> None:
        super().__init__(len(budgets), iterations)
        self._budgets = budgets

    def outcome(self, results: Sequence[StageResult]) -> list[StageResult]:
        return list(results[1:])

    def _next(self, results: Sequence[StageResult]) -> tuple[StageResult, float]:
        return results[-1], self._budgets[len(results) - 1]


class ErrorCeiling(BudgetCurriculum):
    """Tightens until the error exceeds a ceiling, then closes in on the share where it reaches it.

    Between a share below the ceiling and a cheaper one above it, the error is interpolated exponentially in the share,
    as it grows along a frontier.
    """

    measures = True
    _STAGES = 8

    def __init__(self, ceiling: float, least_share: float, iterations: int) -> None:
        """`least_share` is the share that no schedule can go below."""
        super().__init__(self._STAGES, iterations)
        self._ceiling = ceiling
        self._least = least_share

    def outcome(self, results: Sequence[StageResult]) -> list[StageResult]:
        return [self._cheapest(results)]

    def _next(self, results: Sequence[StageResult]) -> tuple[StageResult, float]:
        best = self._cheapest(results)
        failed = [other for other in results if other.share < best.share]
        if not failed:
            return best, max(self._least, _FACTOR * best.share)
        worse = max(failed, key=lambda other: other.share)
        return best, best.share - self._fraction(best, worse) * (best.share - worse.share)

    def _cheapest(self, results: Sequence[StageResult]) -> StageResult:
        return min((each for each in results if each.error <= self._ceiling), key=lambda each: each.share)

    def _fraction(self, best: StageResult, worse: StageResult) -> float:
        """The place of the ceiling between the two results, in (0, 1)."""
        if not best.error or not math.isfinite(worse.error):
            return 0.5
        fraction = math.log(self._ceiling / best.error) / math.log(worse.error / best.error)
        return min(max(fraction, _MARGIN), 1 - _MARGIN)


_FACTOR = 0.7
"""Ratio of one stage's share to that of the stage before, while no result is above the ceiling."""
_MARGIN = 0.2
"""Least distance of a stage's target from either result, as a fraction of the distance between them."""


def make_curriculum(router: RouterSection, least_share: float, iterations: int) -> BudgetCurriculum:
    """The curriculum for the limit that the config sets.

    Args:
        least_share: the share that no schedule can go below.
        iterations: of the whole run.

    Raises:
        ConfigError: a budget is below `least_share`, or there are fewer iterations than stages.
    """
    if router.max_error is not None:
        return ErrorCeiling(router.max_error, least_share, iterations)
    if router.budgets[-1] < least_share:
        key = "router.time_budget" if router.time_budget else "router.budget"
        problem = (
            f"{router.budgets[-1]} is less than {least_share:.4f}, the share of step 0 and of what no schedule can skip"
        )
        raise ConfigError(key, problem, "raise it")
    return GivenBudgets(router.budgets, iterations)
