"""Progress while the tracking server takes none: a table of its database is away."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from l2c_ray.distributed.progress_log import ProgressLog
from l2c_ray.learning.progress import Progress
from l2c_ray.registry.tracking import TrackedRun


@contextmanager
def broken(registry_home: Path) -> Iterator[None]:
    with closing(sqlite3.connect(registry_home / "mlflow.db")) as database:
        database.execute("ALTER TABLE latest_metrics RENAME TO away")
        yield
        database.execute("ALTER TABLE away RENAME TO latest_metrics")


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Messages of the progress log itself, without those of MLflow."""
    own = ProgressLog.__module__
    return lambda: [record.getMessage() for record in caplog.records if record.name == own]


def iterations(*numbers: int) -> list[Progress]:
    return [Progress(number, error=0.5, loss=float("nan"), mean_score=0.9) for number in numbers]


def logged(client: MlflowClient, run: TrackedRun) -> list[int]:
    return sorted(point.step for point in client.get_metric_history(run.id, "error"))


def test_progress_is_logged_as_finite_metrics(client: MlflowClient, run: TrackedRun) -> None:
    ProgressLog(run).add(iterations(1, 2))
    assert logged(client, run) == [1, 2]
    assert client.get_run(run.id).data.metrics == {"error": 0.5, "mean_score": 0.9}


def test_what_could_not_be_logged_is_logged_later(
    client: MlflowClient, run: TrackedRun, registry_home: Path, told: Callable[[], list[str]]
) -> None:
    log = ProgressLog(run)
    log.add(iterations(1))
    with broken(registry_home):
        log.add(iterations(2))
        log.add(iterations(3))
    assert logged(client, run) == [1]
    log.close()
    assert logged(client, run) == [1, 2, 3]
    (warning,) = told()
    assert "Learning goes on" in warning


def test_what_is_never_logged_is_told(run: TrackedRun, registry_home: Path, told: Callable[[], list[str]]) -> None:
    log = ProgressLog(run)
    with broken(registry_home):
        log.add(iterations(1, 2))
        log.close()
    assert told()[-1] == "the progress of 2 iterations is not in MLflow"
