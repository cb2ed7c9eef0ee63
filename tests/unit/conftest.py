"""Fixtures that are slow to make, made once."""

import hashlib
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import hypothesis
import mlflow
import pytest
import torch
from breaking_line import Line, line_to
from hypothesis.configuration import set_hypothesis_home_dir
from lineages import add
from mlflow import MlflowClient
from real_database import Database
from real_object_store import BUCKET, ObjectServer
from tiny_models import tiny_dit
from unit_factories import GUIDANCE, L2C, Finished, Refused, measured_schedule

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.cli.main import main
from l2c_ray.models import zoo
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.zoo import ZooEntry
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.registry import tracking
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Schedule
from l2c_ray.search.storage import STORAGE_VARIABLE
from l2c_ray.storage.bucket import PART_BYTES
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_store

torch.set_num_threads(1)
set_hypothesis_home_dir(Path(__file__).parents[2] / ".pytest_cache" / "hypothesis")
hypothesis.settings.register_profile("unit", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("unit")


@pytest.fixture(autouse=True)
def _environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees the user's registry. MLflow keeps the last server in a global and in the environment."""
    monkeypatch.setenv("L2C_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def digits_model() -> CacheableTransformer:
    return zoo.load("digits-dit")


@pytest.fixture(scope="session")
def digits_pipeline(digits_model: CacheableTransformer) -> Pipeline:
    """Four steps, which is enough to reuse something."""
    return Pipeline(digits_model, make_solver("ddim", 4, digits_model), GUIDANCE)


@pytest.fixture(scope="session")
def half(digits_pipeline: Pipeline) -> Schedule:
    """A schedule for `digits_pipeline` that reuses everything at every second step."""
    return measured_schedule(digits_pipeline, fixed_interval(4, 24, 2))


@pytest.fixture
def latents(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A model of latents with its sampler, which the zoo has under the name `tiny` for whatever checkpoint."""
    model = tiny_dit(channels=4)
    entry = ZooEntry(lambda *_: model, lambda _: model, "ddim", GUIDANCE, model.num_classes)
    monkeypatch.setitem(zoo.ENTRIES, "tiny", entry)
    return Pipeline(model, make_solver("ddim", 4, model), GUIDANCE)


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make its tables."""
    home = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("L2C_HOME", str(home))
        patch.setenv("MLFLOW_TRACKING_URI", "")
        tracking.connect()
    return home / "mlflow.db"


@pytest.fixture
def registry_home(tmp_path: Path, _empty_database: Path) -> Path:
    """`$L2C_HOME` with an empty registry of this test's own."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(_empty_database, home / "mlflow.db")
    return home


@pytest.fixture
def client(registry_home: Path) -> MlflowClient:
    return tracking.connect()


@pytest.fixture
def run(client: MlflowClient) -> TrackedRun:
    return TrackedRun(client, "experiment", "first", {})


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Takes connections and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield int(server.getsockname()[1])


@pytest.fixture
def half_file(half: Schedule, tmp_path: Path) -> Path:
    path = tmp_path / "half.json"
    path.write_text(half.to_json())
    return path


@pytest.fixture
def registered(client: MlflowClient, run: TrackedRun, half: Schedule) -> Schedule:
    """`half` as the champion of the registry."""
    add(client, run, half)
    return half


@pytest.fixture
def l2c(capsys: pytest.CaptureFixture[str]) -> L2C:
    """Runs the command in this process."""

    def run(*arguments: object) -> Finished:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = caught.value.code
        return Finished(0 if code is None else int(code), captured.out, captured.err)

    return run


@pytest.fixture
def refused(l2c: L2C) -> Refused:
    """Runs `l2c`, which has to end with the code and one line that says what is wrong; gives the line."""

    def run(*arguments: object, code: int = 2) -> str:
        finished = l2c(*arguments)
        assert finished.code == code
        assert finished.out == ""
        (line,) = finished.err.splitlines()
        assert line.startswith("error: ")
        return line

    return run


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind, with an empty one of it in the environment."""
    kind: str = request.param
    if kind == "sqlite":
        monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{request.getfixturevalue('tmp_path')}/study.db")
    elif kind == "postgresql":
        server: Database = request.getfixturevalue("database_server")
        monkeypatch.setenv(STORAGE_VARIABLE, server.make(f"study{secrets.token_hex(4)}"))
    return kind


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STORAGE_VARIABLE, raising=False)


@pytest.fixture
def line(object_server: ObjectServer) -> Iterator[Line]:
    """To the server, which a test may break."""
    with line_to(object_server.port) as running:
        yield running


@pytest.fixture(scope="module")
def content() -> bytes:
    """Content of an object that goes up in three parts."""
    return os.urandom(2 * PART_BYTES + 12345)


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """One of each test's own."""
    return f"s3://{BUCKET}/{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]}"


@pytest.fixture
def store(object_server: ObjectServer, prefix: str) -> ObjectStore:
    return open_store(prefix, object_server.environment())


@pytest.fixture
def over_the_line(object_server: ObjectServer, line: Line, prefix: str) -> Callable[..., ObjectStore]:
    """Opens `store` again, over the line and with connections of its own."""
    return partial(open_store, prefix, object_server.environment(port=line.port))


@pytest.fixture(scope="module")
def fuzzing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the inputs of a fuzz test, which hypothesis does not give a new one for each."""
    return tmp_path_factory.mktemp("fuzzing")
