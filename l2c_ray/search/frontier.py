"""Which trials are on the Pareto frontier of cost and error."""

from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from l2c_ray.search.leases import PARENT
from l2c_ray.search.results import Point
from l2c_ray.search.storage import with_retries
from l2c_ray.search.study import Objective

_MEASURED = ("compute_share", "mse", "seconds", "schedule", "sha256")


@dataclass(frozen=True)
class FinishedTrial:
    """A trial with a measured schedule."""

    number: int
    parent: int | None
    """The trial that it was derived from, without learning again."""
    params: dict[str, object]
    point: Point
    cost: float
    """What the study calls cost: compute share or seconds."""
    feasible: bool
    """Within the limit, if there is one."""


def finished_trials(study: optuna.Study, objective: Objective) -> list[FinishedTrial]:
    """All trials that came to a measured schedule, in their order."""
    complete = with_retries(lambda: study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    # Another program may have added some of its own while the search goes on.
    return [_read(trial, objective) for trial in complete if trial.user_attrs.keys() >= set(_MEASURED)]


def frontier(trials: list[FinishedTrial]) -> list[FinishedTrial]:
    """Those within the limit that no other of them beats in cost and error both, cheapest first.

    Of several with the same cost and error the first one stands for all.
    """
    best: list[FinishedTrial] = []
    feasible = [trial for trial in trials if trial.feasible]
    for trial in sorted(feasible, key=lambda trial: (trial.cost, trial.point.mse, trial.number)):
        if not best or trial.point.mse < best[-1].point.mse:
            best.append(trial)
    return best


def _read(trial: FrozenTrial, objective: Objective) -> FinishedTrial:
    attributes = trial.user_attrs
    point = Point(settings={}, **{name: attributes[name] for name in _MEASURED})
    feasible = all(excess <= 0 for excess in trial.constraints.values())
    return FinishedTrial(trial.number, attributes.get(PARENT), trial.params, point, objective.cost(point), feasible)
