"""The Pareto frontier of a study, by cost and error."""

from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from l2c_ray.search.leases import PARENT
from l2c_ray.search.results import ScheduleMeasurement
from l2c_ray.search.storage import with_retries
from l2c_ray.search.study import StudyObjective

_MEASURED = ("compute_share", "mse", "seconds", "schedule", "sha256")


@dataclass(frozen=True)
class FinishedTrial:
    """A trial with a measured schedule."""

    number: int
    parent: int | None
    """The trial that it was derived from, without learning again."""
    params: dict[str, object]
    measurement: ScheduleMeasurement
    cost: float
    """The study's cost: compute share or seconds."""
    feasible: bool
    """Whether the trial keeps within the limit, if there is one."""

    def as_dict(self) -> dict[str, Any]:
        """All values, for JSON."""
        # Readers of older files know the measurement as a point.
        return {"point" if name == "measurement" else name: value for name, value in asdict(self).items()}


def finished_trials(study: optuna.Study, objective: StudyObjective) -> list[FinishedTrial]:
    """All trials with a measured schedule, in their order."""
    complete = with_retries(lambda: study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    # Another program may have added some of its own while the search goes on.
    return [_read(trial, objective) for trial in complete if trial.user_attrs.keys() >= set(_MEASURED)]


def frontier(trials: list[FinishedTrial]) -> list[FinishedTrial]:
    """The feasible trials that no other one beats in both cost and error, cheapest first.

    Of several with the same cost and error the first one stands for all.
    """
    best: list[FinishedTrial] = []
    feasible = [trial for trial in trials if trial.feasible]
    for trial in sorted(feasible, key=lambda trial: (trial.cost, trial.measurement.mse, trial.number)):
        if not best or trial.measurement.mse < best[-1].measurement.mse:
            best.append(trial)
    return best


def _read(trial: FrozenTrial, objective: StudyObjective) -> FinishedTrial:
    attributes = trial.user_attrs
    measurement = ScheduleMeasurement(settings={}, **{name: attributes[name] for name in _MEASURED})
    return FinishedTrial(
        number=trial.number,
        parent=attributes.get(PARENT),
        params=trial.params,
        measurement=measurement,
        cost=objective.cost(measurement),
        feasible=all(excess <= 0 for excess in trial.constraints.values()),
    )
