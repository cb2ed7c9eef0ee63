"""Tests on a cluster and a registry of their own, whatever the shell that runs them points to."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from free_ports import free_port
from real_cluster import Cluster
from real_object_store import files_with_secrets

from l2c_ray.distributed import local_head


@pytest.fixture(scope="session", autouse=True)
def _no_other_servers() -> None:
    ray = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS")
    keys = [name for name in os.environ if name.startswith("AWS_")]
    for name in (*ray, *keys, "MLFLOW_TRACKING_URI", "L2C_STUDY_STORAGE", "L2C_STORAGE"):
        os.environ.pop(name, None)


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
    head = local_head.start()
    try:
        yield Cluster(head, home)
        assert not files_with_secrets(Path(head.temp_dir)) + files_with_secrets(home)
    finally:
        local_head.stop(head)
    assert not head.alive
