"""One real Ray head for all tests that need one, with a home folder of its own; it is gone when they are over."""

import os
from collections.abc import Iterator

import pytest
from real_cluster import Cluster

from l2c_ray.distributed import local_head


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("home")
    os.environ["L2C_HOME"] = str(home)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    head = local_head.start()
    try:
        yield Cluster(head, home)
    finally:
        local_head.stop(head)
    assert not head.alive
