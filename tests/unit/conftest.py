"""Fixtures that are slow to make, made once."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import mlflow
import pytest
import torch
from hypothesis.configuration import set_hypothesis_home_dir

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.models import zoo
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.registry import tracking
from l2c_ray.sampling.solvers import make_solver

torch.set_num_threads(1)
hypothesis.settings.register_profile("unit", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("unit")


@pytest.fixture(scope="session", autouse=True)
def _hypothesis_writes_nothing_here(tmp_path_factory: pytest.TempPathFactory) -> None:
    set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


@pytest.fixture(scope="session")
def digits_model() -> CacheableTransformer:
    return zoo.load("digits-dit")


@pytest.fixture(scope="session")
def digits_pipeline(digits_model: CacheableTransformer) -> Pipeline:
    """Four steps, which is enough to reuse something."""
    return Pipeline(digits_model, make_solver("ddim", 4, digits_model.scheduler), 1.5)


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """MLflow takes seconds to make its tables."""
    home = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("L2C_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.connect()
    yield home / "mlflow.db"
    mlflow.set_tracking_uri("")


@pytest.fixture
def registry_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _empty_database: Path) -> Path:
    """An empty registry of this test's own, in `$L2C_HOME`."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(_empty_database, home / "mlflow.db")
    monkeypatch.setenv("L2C_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return home


@pytest.fixture
def unused_port() -> int:
    """Nothing listens on it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Takes connections and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield int(server.getsockname()[1])
