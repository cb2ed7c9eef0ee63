"""Runs and versions over a real MLflow server, also while it dies."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import alias_mover
import pytest
from lineages import add
from real_tracking_server import TrackingServer, running_tracking_server

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.errors import RegistryError, UnreachableError
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.models import zoo
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.registry import tracking
from l2c_ray.registry.aliases import history, roll_back
from l2c_ray.registry.mutex import exclusive
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import CHAMPION, get_version, list_versions, load_schedule, resolve
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance, Provenance, Quality, Schedule

NAME = "digits-dit-ddim-4"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackingServer]:
    with running_tracking_server(tmp_path) as running:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.address)
        yield running


@pytest.fixture(scope="module")
def schedule() -> Schedule:
    model = zoo.load("digits-dit")
    pipeline = Pipeline(model, make_solver("ddim", 4, model), Guidance(scale=1.5))
    plain = make_schedule(pipeline, fixed_interval(4, 24, 2), Provenance(policy="test", settings={}))
    return plain.with_quality(Quality(protocol="test", metrics={"mse": 1e-3}))


def test_version_is_registered_listed_and_fetched_over_http(server: TrackingServer, schedule: Schedule) -> None:
    client = tracking.connect()
    run = TrackedRun(client, "experiment", "first", {})
    registered = add(client, run, schedule)
    assert add(client, run, schedule) == registered
    assert list_versions(client) == [registered] == [resolve(client, NAME, CHAMPION)]
    assert load_schedule(registered) == schedule
    for ask in (
        lambda: resolve(client, NAME, "fast"),
        lambda: resolve(client, "none", CHAMPION),
        lambda: get_version(client, NAME, 2),
    ):
        with pytest.raises(RegistryError, match="is not in the registry"):
            ask()


def test_server_that_dies_during_a_run_is_a_typed_error_within_a_minute(
    server: TrackingServer, schedule: Schedule
) -> None:
    client = tracking.connect()
    run = TrackedRun(client, "experiment", "first", {})
    server.signal(signal.SIGKILL)
    for work in (
        lambda: run.log_metrics({1: {"loss": 1.0}}),
        lambda: add(client, run, schedule),
    ):
        start = time.monotonic()
        with pytest.raises(UnreachableError) as caught:
            work()
        assert caught.value.subject == server.address
        assert time.monotonic() - start < 60
    run.end("FAILED")


def test_of_two_processes_that_move_an_alias_over_http_one_wins(server: TrackingServer, schedule: Schedule) -> None:
    client = tracking.connect()
    run = TrackedRun(client, "experiment", "first", {})
    for number in range(3):
        provenance = Provenance(policy="test", settings={"number": number})
        parts = (schedule.model, schedule.sampler, schedule.table, provenance, schedule.cost, schedule.quality)
        add(client, run, Schedule.create(*parts))
    # All begin at once, for that takes them a while.
    movers = [alias_mover.start("move", NAME, CHAMPION, to, 1) for to in (2, 3)]
    holder = alias_mover.start("hold", NAME)
    outcomes = alias_mover.go(*movers)
    assert [mover.wait(60) for mover in movers] == [0, 0]
    assert sorted(outcomes) == ["ConflictError", "moved"]
    moves = history(client, NAME)
    assert [(move.before, move.after) for move in moves] == [(None, 1), (1, 2 if outcomes[0] == "moved" else 3)]
    assert resolve(client, NAME, CHAMPION).version == moves[-1].after
    assert roll_back(client, NAME, CHAMPION, "over http").after == 1
    assert alias_mover.go(holder) == ["held"]
    holder.kill()
    holder.wait()
    with exclusive(client, NAME, lease_seconds=1.0) as held:
        held.require()
    assert {version.name for version in list_versions(client)} == {NAME}
