"""Studies that tests share: a space of two settings, and what a trial may come to."""

import math
from collections.abc import Callable
from typing import Any

from l2c_ray.config.search import SearchConfig
from l2c_ray.search.leases import Ledger
from l2c_ray.search.results import Result, ScheduleMeasurement
from l2c_ray.search.space import make_space
from l2c_ray.search.storage import StudyStorage
from l2c_ray.search.study import StudyObjective, open_study

LEARN = {
    "model": {"name": "digits-dit"},
    "router": {},
    "training": {"iterations": 6, "batch_size": 4},
}


def search_config(**tables: Any) -> SearchConfig:
    values: dict[str, Any] = {
        "learn": LEARN,
        "study": {"trials": 5},
        "space": {
            "router.lambda": {"low": 1e-5, "high": 1e-3, "log": True},
            "training.batch_size": {"low": 2, "high": 8},
        },
    }
    for name, table in tables.items():
        values[name] = {**values.get(name, {}), **table} if name in ("study", "space") else table
    return SearchConfig.parse(values, source="test")


class Driver:
    """One driver of a study, with connections of its own as another process would have."""

    def __init__(self, config: SearchConfig, name: str, clock: Callable[[], float], study: str = "shared") -> None:
        storage = StudyStorage(study)
        self.study = open_study(config, study, storage)
        self.ledger = Ledger(
            self.study,
            storage,
            name,
            make_space(config.space),
            StudyObjective(config.objective),
            config.study.trials,
            config.study.lease_seconds,
            config.study.max_retries,
            clock,
        )

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study.get_trials()]

    def attribute(self, number: int, name: str) -> Any:
        return self.study.get_trials()[number].user_attrs.get(name)

    def set_attribute(self, number: int, name: str, value: Any) -> None:
        self.study._storage.set_trial_user_attr(self.study.get_trials()[number]._trial_id, name, value)


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def measurement(mse: float = 1e-3, share: float = 0.5, **settings: float) -> ScheduleMeasurement:
    return ScheduleMeasurement(settings, share, mse, 1.0, "schedule.json", "a" * 64)


def finished(*measurements: ScheduleMeasurement) -> Result:
    return Result("finished", measurements=measurements or (measurement(),))


def run_all(driver: Driver) -> int:
    """Runs trials to the end, one at a time; returns their number."""
    count = 0
    while (spec := driver.ledger.ask()) is not None:
        count += driver.ledger.tell(spec.number, finished(measurement(mse=spec.params["router.lambda"])))
    return count


NAN = finished(measurement(mse=math.nan))
LOST = Result("lost", reason="its worker died")
