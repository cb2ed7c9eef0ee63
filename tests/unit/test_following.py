"""An engine follows the alias of its registry, and serves on whatever happens to it."""

import base64
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from lineages import add
from mlflow import MlflowClient
from real_cluster import PATIENCE, wait_until
from unit_factories import measured_schedule

from l2c_ray.caching.pipeline import Pipeline, encode_png
from l2c_ray.config.serving import ServingConfig
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import RegisteredVersion
from l2c_ray.schedule import Guidance, Schedule
from l2c_ray.serving import following
from l2c_ray.serving.engine import Engine
from l2c_ray.serving.schema import GenerationRequest, GenerationResponse

NAME = "digits-dit-ddim-4"
OFTEN = 0.02
"""Seconds between two lookups."""
REQUEST = GenerationRequest(label=3)


@contextmanager
def serving(refresh_seconds: float = OFTEN) -> Iterator[Engine]:
    config = {"model": "digits-dit", "steps": 4, "refresh_seconds": refresh_seconds}
    with closing(Engine(ServingConfig.parse(config, source="test"))) as engine:
        yield engine


def version_of(response: GenerationResponse) -> int:
    assert response.schedule is not None
    return response.schedule.version


def png(response: GenerationResponse) -> bytes:
    return base64.b64decode(response.data[0].b64_json)


def served_version(engine: Engine) -> int:
    schedule = engine.models().data[0].schedule
    assert schedule is not None
    return schedule.version


@dataclass
class Lookups:
    """How many of an alias there were."""

    begun: int = 0
    over: int = 0

    def wait_for(self, count: int = 4) -> None:
        """Waits for so many more lookups."""
        enough = self.over + count
        wait_until(lambda: self.over >= enough)


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Lookups:
    seen = Lookups()
    resolve = following.resolve

    def counted(client: MlflowClient, name: str, alias: str) -> RegisteredVersion:
        seen.begun += 1
        try:
            return resolve(client, name, alias)
        finally:
            seen.over += 1

    monkeypatch.setattr(following, "resolve", counted)
    return seen


@pytest.fixture
def first(client: MlflowClient, run: TrackedRun, half: Schedule) -> RegisteredVersion:
    """The champion that is served to begin with."""
    return add(client, run, half)


@pytest.fixture
def second(client: MlflowClient, run: TrackedRun, first: RegisteredVersion, less: Schedule) -> RegisteredVersion:
    """Another version, which has no alias yet."""
    return add(client, run, less, worth_serving=False)


@pytest.fixture
def less(digits_pipeline: Pipeline) -> Schedule:
    return measured_schedule(digits_pipeline, fixed_interval(4, 24, 4))


def schedule_file(home: Path, schedule: Schedule) -> Path:
    (path,) = (path for path in home.rglob("schedule.json") if schedule.sha256 in path.read_text())
    return path


def test_alias_that_moves_is_followed(
    client: MlflowClient, second: RegisteredVersion, less: Schedule, digits_pipeline: Pipeline
) -> None:
    with serving() as engine:
        assert version_of(engine.generate(REQUEST)) == 1
        client.set_registered_model_alias(NAME, "champion", "2")
        wait_until(lambda: served_version(engine) == 2)
        response = engine.generate(REQUEST)
    assert version_of(response) == 2
    assert png(response) == encode_png(digits_pipeline.generate([3], [0], less)[0])


def test_guidance_follows_the_schedule(
    client: MlflowClient, run: TrackedRun, first: RegisteredVersion, digits_pipeline: Pipeline
) -> None:
    guided = Pipeline(digits_pipeline.model, digits_pipeline.solver, Guidance(scale=3.0))
    schedule = measured_schedule(guided, fixed_interval(4, 24, 2))
    with serving() as engine:
        other = add(client, run, schedule)
        client.set_registered_model_alias(NAME, "champion", str(other.version))
        wait_until(lambda: served_version(engine) == other.version)
        assert png(engine.generate(REQUEST)) == encode_png(guided.generate([3], [0], schedule)[0])


def test_alias_is_not_looked_up_before_it_is_time(
    client: MlflowClient, second: RegisteredVersion, lookups: Lookups
) -> None:
    with serving(refresh_seconds=3600.0) as engine:
        client.set_registered_model_alias(NAME, "champion", "2")
        assert version_of(engine.generate(REQUEST)) == 1
    assert lookups.over == 1


def test_version_that_is_served_is_not_fetched_again(
    first: RegisteredVersion, half: Schedule, registry_home: Path, lookups: Lookups, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(), caplog.at_level(logging.WARNING):
        schedule_file(registry_home, half).unlink()
        lookups.wait_for()
    assert caplog.text == ""


def test_request_does_not_wait_for_a_registry_that_hangs(
    first: RegisteredVersion, registry_home: Path, lookups: Lookups, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = registry_home / "mlflow.db"
    # By default a lookup gives up after five seconds.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}?timeout={PATIENCE}")
    with serving() as engine, closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        waiting = lookups.begun + 1
        wait_until(lambda: lookups.begun >= waiting)
        assert version_of(engine.generate(REQUEST)) == 1
        assert served_version(engine) == 1
        assert (lookups.begun, lookups.over) == (waiting, waiting - 1)
        other.rollback()
        lookups.wait_for()


def test_trouble_is_told_when_it_begins_and_when_it_is_over(
    client: MlflowClient, first: RegisteredVersion, lookups: Lookups, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == following.__name__]

    with serving() as engine, caplog.at_level(logging.WARNING):
        client.delete_registered_model_alias(NAME, "champion")
        lookups.wait_for()
        assert version_of(engine.generate(REQUEST)) == 1
        (begun,) = told()
        assert begun.startswith(f"still serving models:/{NAME}/1: {NAME}@champion")
        client.set_registered_model_alias(NAME, "champion", "1")
        lookups.wait_for()
        assert told() == [begun, f"following {NAME}@champion again"]


def test_corrupt_schedule_is_not_served_until_the_alias_moves_on(
    client: MlflowClient,
    run: TrackedRun,
    second: RegisteredVersion,
    less: Schedule,
    digits_pipeline: Pipeline,
    registry_home: Path,
    lookups: Lookups,
) -> None:
    schedule_file(registry_home, less).write_text("{")
    with serving() as engine:
        client.set_registered_model_alias(NAME, "champion", "2")
        lookups.wait_for()
        assert version_of(engine.generate(REQUEST)) == 1
        third = add(client, run, measured_schedule(digits_pipeline, fixed_interval(4, 24, 3)), worth_serving=False)
        client.set_registered_model_alias(NAME, "champion", str(third.version))
        wait_until(lambda: served_version(engine) == 3)


def test_error_that_nobody_thought_of_does_not_end_the_following(
    client: MlflowClient, second: RegisteredVersion, monkeypatch: pytest.MonkeyPatch, lookups: Lookups
) -> None:
    def fail(_: RegisteredVersion) -> Schedule:
        raise ZeroDivisionError

    with serving() as engine:
        with monkeypatch.context() as patch:
            patch.setattr(following, "load_schedule", fail)
            client.set_registered_model_alias(NAME, "champion", "2")
            lookups.wait_for()
            assert version_of(engine.generate(REQUEST)) == 1
        wait_until(lambda: served_version(engine) == 2)
