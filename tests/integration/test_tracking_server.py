"""Runs and versions over a real MLflow server, also while it dies."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from real_cluster import wait_until

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.errors import RegistryError, UnreachableError
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.models import zoo
from l2c_ray.policies.fixed_interval import fixed_interval_mask
from l2c_ray.registry import tracking
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import CHAMPION, get_version, list_versions, load_schedule, register, resolve
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Provenance, Quality, Schedule

NAME = "digits-dit-ddim-4"


@dataclass(frozen=True)
class Server:
    address: str
    group: int
    """Of its processes."""

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.group, number)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", str(tmp_path)]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen([*command, *stores], stdout=log, stderr=log, start_new_session=True, cwd=tmp_path)
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    try:
        wait_until(lambda: _healthy(address), timeout=120)
        yield Server(address, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def schedule() -> Schedule:
    model = zoo.load("digits-dit")
    pipeline = Pipeline(model, make_solver("ddim", 4, model.scheduler), 1.5)
    plain = make_schedule(pipeline, fixed_interval_mask(4, 24, 2), Provenance(policy="test", settings={}))
    return plain.with_quality(Quality(protocol="test", metrics={"mse": 1e-3}))


def test_version_is_registered_listed_and_fetched_over_http(server: Server, schedule: Schedule) -> None:
    client = tracking.connect()
    run = TrackedRun(client, "experiment", "first", {})
    registered = register(client, schedule, run.id, (1, 8, 8), {}, worth_serving=True)
    assert register(client, schedule, run.id, (1, 8, 8), {}, worth_serving=True) == registered
    assert list_versions(client) == [registered] == [resolve(client, NAME, CHAMPION)]
    assert load_schedule(registered) == schedule
    for ask in (
        lambda: resolve(client, NAME, "fast"),
        lambda: resolve(client, "none", CHAMPION),
        lambda: get_version(client, NAME, 2),
    ):
        with pytest.raises(RegistryError, match="is not in the registry"):
            ask()


def test_server_that_dies_during_a_run_is_a_typed_error_within_a_minute(server: Server, schedule: Schedule) -> None:
    client = tracking.connect()
    run = TrackedRun(client, "experiment", "first", {})
    server.signal(signal.SIGKILL)
    for work in (
        lambda: run.log_metrics({1: {"loss": 1.0}}),
        lambda: register(client, schedule, run.id, (1, 8, 8), {}, worth_serving=True),
    ):
        start = time.monotonic()
        with pytest.raises(UnreachableError) as caught:
            work()
        assert caught.value.subject == server.address
        assert time.monotonic() - start < 60
    run.end("FAILED")


def _healthy(address: str) -> bool:
    try:
        return requests.get(f"{address}/health", timeout=5).ok
    except requests.ConnectionError:
        return False
