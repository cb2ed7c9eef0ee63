"""Runs and versions over a real MLflow server, also while it dies."""

import signal
from pathlib import Path

import alias_mover
import pytest
from lineages import add
from mlflow import MlflowClient
from real_cluster import PATIENCE
from real_tracking_server import TrackingServer, running_tracking_server

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.errors import RegistryError, UnreachableError
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.models import zoo
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.registry import tracking
from l2c_ray.registry.aliases import history, roll_back
from l2c_ray.registry.mutex import LOCK_PREFIX, exclusive
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import CHAMPION, get_version, list_versions, load_schedule, resolve
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance, Provenance, Quality, Schedule


@pytest.fixture
def client(tracking_server: TrackingServer, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_server.address)
    return tracking.connect()


@pytest.fixture(scope="module")
def model() -> CacheableTransformer:
    return zoo.load("digits-dit")


def schedule_of(model: CacheableTransformer, steps: int) -> Schedule:
    """Versions of it have the number of steps in their name, which is what tests keep apart by."""
    pipeline = Pipeline(model, make_solver("ddim", steps, model), Guidance(scale=1.5))
    plain = make_schedule(pipeline, fixed_interval(steps, 24, 2), Provenance(policy="test", settings={}))
    return plain.with_quality(Quality(protocol="test", metrics={"mse": 1e-3}))


def test_version_is_registered_listed_and_fetched_over_http(client: MlflowClient, model: CacheableTransformer) -> None:
    schedule, name = schedule_of(model, 4), "digits-dit-ddim-4"
    run = TrackedRun(client, "experiment", "registered", {})
    registered = add(client, run, schedule)
    assert add(client, run, schedule) == registered
    assert [each for each in list_versions(client) if each.name == name] == [registered]
    assert resolve(client, name, CHAMPION) == registered
    assert load_schedule(registered) == schedule
    for ask in (
        lambda: resolve(client, name, "fast"),
        lambda: resolve(client, "none", CHAMPION),
        lambda: get_version(client, name, 2),
    ):
        with pytest.raises(RegistryError, match="is not in the registry"):
            ask()


def test_server_that_dies_during_a_run_is_a_typed_error(
    model: CacheableTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_tracking_server(tmp_path) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        client = tracking.connect()
        run = TrackedRun(client, "experiment", "first", {})
        server.signal(signal.SIGKILL)
        for work in (
            lambda: run.log_metrics({1: {"loss": 1.0}}),
            lambda: add(client, run, schedule_of(model, 4)),
        ):
            with pytest.raises(UnreachableError) as caught:
                work()
            assert caught.value.subject == server.address
        run.end("FAILED")


def test_of_two_processes_that_move_an_alias_over_http_one_wins(
    client: MlflowClient, model: CacheableTransformer
) -> None:
    schedule, name = schedule_of(model, 5), "digits-dit-ddim-5"
    run = TrackedRun(client, "experiment", "moved", {})
    for number in range(3):
        provenance = Provenance(policy="test", settings={"number": number})
        parts = (schedule.model, schedule.sampler, schedule.table, provenance, schedule.cost, schedule.quality)
        add(client, run, Schedule.create(*parts))
    # All begin at once, for that takes them a while.
    movers = [alias_mover.start("move", name, CHAMPION, to, 1) for to in (2, 3)]
    holder = alias_mover.start("hold", name)
    outcomes = alias_mover.go(*movers)
    assert [mover.wait(PATIENCE) for mover in movers] == [0, 0]
    assert sorted(outcomes) == ["ConflictError", "moved"]
    moves = history(client, name)
    assert [(move.before, move.after) for move in moves] == [(None, 1), (1, 2 if outcomes[0] == "moved" else 3)]
    assert resolve(client, name, CHAMPION).version == moves[-1].after
    assert roll_back(client, name, CHAMPION, "over http").after == 1
    assert alias_mover.go(holder) == ["held"]
    holder.kill()
    holder.wait()
    with exclusive(client, name, lease_seconds=1.0) as held:
        held.require()
    assert not any(version.name.startswith(LOCK_PREFIX) for version in list_versions(client))
