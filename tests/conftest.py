"""One cluster and one server of each kind for all tests, whatever the shell that runs them points to."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from free_ports import free_port
from real_cluster import Cluster
from real_database import Database, running_database
from real_object_store import ObjectServer, files_with_secrets, running_object_server
from real_tracking_server import TrackingServer, running_tracking_server
from xdist.scheduler import LoadScopeScheduling

from l2c_ray.distributed import local_head

ON_THE_CLUSTER = ("tests/integration/", "tests/faults/")
"""Folders whose tests share it."""


class OneForTheCluster(LoadScopeScheduling):
    """Deals tests out so that the cluster starts in one process only; all others go by their modules."""

    def _split_scope(self, nodeid: str) -> str:
        return "cluster" if nodeid.startswith(ON_THE_CLUSTER) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneForTheCluster:
    return OneForTheCluster(config, log)


@pytest.fixture(scope="session", autouse=True)
def _no_other_servers() -> None:
    ray = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS")
    keys = [name for name in os.environ if name.startswith("AWS_")]
    for name in (*ray, *keys, "MLFLOW_TRACKING_URI", "L2C_STUDY_STORAGE", "L2C_STORAGE"):
        os.environ.pop(name, None)
    # Ray's workers are nice to all other processes, so that on a busy machine they would hardly run.
    os.environ |= {"RAY_worker_niceness": "0"}


@pytest.fixture
def unused_port() -> int:
    """Nothing listens on it."""
    return free_port()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One real Ray head for all tests that need one, with a home folder of its own; it is gone when they are over.

    No key of an S3 server that a test ran is in what Ray or l2c has written by then.
    """
    home = tmp_path_factory.mktemp("home")
    os.environ["L2C_HOME"] = str(home)
    # A job that is stopped has its three seconds on an idle machine alone.
    os.environ["RAY_JOB_STOP_WAIT_TIME_S"] = "120"
    # Processes that no test asks for: workers before there is work, and a watch over nodes that a cloud takes away.
    os.environ |= {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    head = local_head.start()
    try:
        yield Cluster(head, home)
        assert not files_with_secrets(Path(head.temp_dir)) + files_with_secrets(home)
    finally:
        ray.shutdown()
        local_head.stop(head)
    assert not head.alive


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A server of S3's protocol; every test keeps to a prefix of its own."""
    with running_object_server(tmp_path_factory.mktemp("swift")) as running:
        yield running


@pytest.fixture(scope="session")
def database_server() -> Iterator[Database]:
    """PostgreSQL, in which every test makes a database of its own."""
    with running_database() as running:
        yield running


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    """MLflow's, for tests that let it live and register models under names of their own."""
    with running_tracking_server(tmp_path_factory.mktemp("mlflow")) as running:
        yield running
