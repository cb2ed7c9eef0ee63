"""Tests on a cluster and a registry of their own, whatever the shell that runs them points to."""

import os
from collections.abc import Iterator

import pytest
from real_cluster import Cluster

from l2c_ray.distributed import local_head


@pytest.fixture(scope="session", autouse=True)
def _no_other_servers() -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One real Ray head for all tests that need one, with a home folder of its own; it is gone when they are over."""
    home = tmp_path_factory.mktemp("home")
    os.environ["L2C_HOME"] = str(home)
    head = local_head.start()
    try:
        yield Cluster(head, home)
    finally:
        local_head.stop(head)
    assert not head.alive
