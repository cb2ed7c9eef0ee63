"""Studies that tests share: a space of two settings, and what a trial may come to."""

import math
from collections.abc import Callable
from typing import Any

from l2c_ray.config.search import SearchConfig
from l2c_ray.search.leases import Ledger
from l2c_ray.search.results import Point, Result
from l2c_ray.search.space import make_space
from l2c_ray.search.storage import StudyStorage
from l2c_ray.search.study import Objective, open_study

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
            Objective(config.objective),
            config.study.trials,
            config.study.lease_seconds,
            config.study.max_retries,
            clock,
        )

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study.get_trials()]

    def attribute(self, number: int, name: str) -> Any:
        return self.study.get_trials()[number].user_attrs.get(name)


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def point(mse: float = 1e-3, share: float = 0.5, **settings: float) -> Point:
    return Point(settings, share, mse, 1.0, "schedule.json", "a" * 64)


def finished(*points: Point) -> Result:
    return Result("finished", points=points or (point(),))


def run_all(driver: Driver) -> int:
    """Runs trials to the end, one at a time; how many."""
    count = 0
    while (trial := driver.ledger.claim()) is not None:
        count += driver.ledger.settle(trial.number, finished(point(mse=trial.params["router.lambda"])))
    return count


NAN = finished(point(mse=math.nan))
LOST = Result("lost", reason="its worker died")
