"""Learning with its checkpoints in S3: killed, stopped and gone on with as in a folder, through a server that dies."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from real_cluster import DIGITS, PATIENCE, SMALL, Cluster, set_options, wait_until
from real_object_store import BUCKET, ObjectServer, running_object_server

from l2c_ray.distributed import local_head
from l2c_ray.storage.objects import ObjectStore, open_store

RUNS = f"s3://{BUCKET}/runs"
NAME = "in-s3"
LONG = ("run.name='in-s3'", "training.iterations=1000")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with running_object_server(tmp_path_factory.mktemp("swift")) as running:
        yield running


@pytest.fixture
def store(server: ObjectServer) -> ObjectStore:
    return open_store(RUNS, server.environment())


def test_run_in_s3_is_gone_on_with_after_a_kill_a_stop_and_a_server_that_dies(
    cluster: Cluster, server: ObjectServer, store: ObjectStore, tmp_path: Path
) -> None:
    with learning(cluster, server, tmp_path / "killed") as killed:
        wait_until(lambda: len(checkpoints(store)) > 1)
        killed.kill()

    with learning(cluster, server, tmp_path / "stopped", "training.checkpoint_every=1000") as stopped:
        wait_until(lambda: bool(iterations(tmp_path / "stopped")))
        stopped.send_signal(signal.SIGTERM)
        assert stopped.wait(timeout=PATIENCE) == 1
    assert "was stopped; go on with --set run.name=in-s3" in (tmp_path / "stopped").read_text()
    assert iterations(tmp_path / "stopped")[0] > 10
    assert cluster.mlflow_run(NAME).info.status == "KILLED"

    done = iterations(tmp_path / "stopped")[-1]
    few = (f"training.iterations={done + 100}", "training.checkpoint_every=20")
    with learning(cluster, server, tmp_path / "finished", *few) as finished:
        wait_until(lambda: bool(iterations(tmp_path / "finished")))
        with server.away():
            time.sleep(3)
            assert finished.poll() is None
        assert finished.wait(timeout=PATIENCE) == 0, (tmp_path / "finished").read_text()
    assert iterations(tmp_path / "finished")[0] >= done
    assert cluster.mlflow_run(NAME).info.status == "FINISHED"
    assert f"{NAME}/settings.json" in store.names()
    assert not (cluster.home / "runs" / NAME).exists()
    assert server.secret not in told_of_runs(cluster)


def test_server_that_stays_away_ends_the_run_which_goes_on_when_it_is_back(
    cluster: Cluster, server: ObjectServer, store: ObjectStore, tmp_path: Path
) -> None:
    once = ("run.name='cut-off'", "cluster.max_failures=0")
    with learning(cluster, server, tmp_path / "cut", *once) as cut:
        wait_until(lambda: len(checkpoints(store, "cut-off")) > 1)
        with server.away():
            assert cut.wait(timeout=PATIENCE) == 1
    last = (tmp_path / "cut").read_text().strip().splitlines()[-1]
    assert last.startswith("error: run cut-off: failed on a worker (")
    assert "does not answer" in last
    assert cluster.mlflow_run("cut-off").info.status == "FAILED"

    few = ("training.iterations=200", "training.checkpoint_every=100")
    with learning(cluster, server, tmp_path / "again", *once, *few) as again:
        assert again.wait(timeout=PATIENCE) == 0, (tmp_path / "again").read_text()
    assert iterations(tmp_path / "again")[0] > 10


@contextmanager
def learning(cluster: Cluster, server: ObjectServer, log: Path, *overrides: str) -> Iterator[subprocess.Popen[bytes]]:
    """`l2c learn` into S3. Nobody but its driver has the keys: the cluster was started without them."""
    command = ["l2c", "learn", str(DIGITS), *set_options(*SMALL, *LONG, *overrides)]
    environment = cluster.environment() | server.environment() | {"L2C_STORAGE": RUNS}
    environment["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "1"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=cluster.home, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def checkpoints(store: ObjectStore, run: str = NAME) -> list[str]:
    return [name for name in store.names(run) if name.endswith("/state.safetensors")]


def iterations(log: Path) -> list[int]:
    """Those that the log tells of."""
    lines = log.read_text().splitlines()
    return [int(line.split()[1].split("/")[0]) for line in lines if line.startswith("learning ")]


def told_of_runs(cluster: Cluster) -> str:
    """By Ray's dashboard."""
    authorized = {"Authorization": f"Bearer {local_head.token()}"}
    told = requests.get(f"{cluster.head.dashboard_url}/api/train/v2/runs/v1", headers=authorized, timeout=30).text
    assert NAME in told
    return told
