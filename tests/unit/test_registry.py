from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from unit_factories import small_schedule

from l2c_ray.caching.pipeline import Pipeline, to_pixels
from l2c_ray.errors import L2CError, RegistryError, ScheduleError
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import (
    CHAMPION,
    RegisteredVersion,
    get_version,
    list_versions,
    load_schedule,
    model_name,
    register,
    resolve,
)
from l2c_ray.schedule import Cost, Provenance, Quality, Schedule

NAME = "small-ddim-3"
IMAGE_SHAPE = (1, 8, 8)


def measured(cached: int = 600, mse: float = 1e-3, git_commit: str | None = "f" * 40) -> Schedule:
    return small_schedule(
        cost=Cost(count="layers+attention", full=1000, cached=cached),
        quality=Quality(protocol="frontier/1 images=8", metrics={"mse": mse, "psnr": 30.0}),
        provenance=Provenance(policy="learned", settings={"seed": 0}, git_commit=git_commit),
    )


def add(
    client: MlflowClient, run: TrackedRun, schedule: Schedule, *, worth_serving: bool = True, **tags: str
) -> RegisteredVersion:
    return register(client, schedule, run.id, IMAGE_SHAPE, tags, worth_serving=worth_serving)


def version(compute_share: float, mse: float) -> RegisteredVersion:
    return RegisteredVersion(NAME, 1, (), "0" * 64, compute_share, mse, "", "")


def test_version_is_tagged_with_what_it_is(client: MlflowClient, run: TrackedRun) -> None:
    schedule = measured(cached=600, mse=1.5e-3)
    registered = add(client, run, schedule, speedup="1.9")
    tags = client.get_model_version(NAME, "1").tags
    assert tags["sha256"] == schedule.sha256
    assert float(tags["compute_share"]) == 0.6
    assert float(tags["metric.mse"]) == 1.5e-3
    assert float(tags["metric.psnr"]) == 30.0
    assert tags["git_commit"] == "f" * 40
    assert tags["speedup"] == "1.9"
    assert registered == RegisteredVersion(NAME, 1, (CHAMPION,), schedule.sha256, 0.6, 1.5e-3, run.id, "f" * 40)
    assert registered.uri == f"models:/{NAME}/1"


def test_version_of_a_model_and_sampler_is_found_under_their_name() -> None:
    assert model_name("digits-dit", "ddim", 20) == "digits-dit-ddim-20"


def test_schedule_that_knows_no_commit_is_registered_all_the_same(client: MlflowClient, run: TrackedRun) -> None:
    assert add(client, run, measured(git_commit=None)).git_commit == "unknown"


def test_same_schedule_is_one_version(client: MlflowClient, run: TrackedRun) -> None:
    first = add(client, run, measured())
    assert add(client, TrackedRun(client, "experiment", "second", {}), measured()) == first
    assert list_versions(client, NAME) == [first]


@pytest.mark.parametrize(
    ("mine", "theirs", "better"),
    [
        ((0.5, 1e-3), (0.6, 1e-3), True),
        ((0.5, 1e-3), (0.5, 2e-3), True),
        ((0.5, 1e-3), (0.6, 2e-3), True),
        ((0.5, 1e-3), (0.5, 1e-3), False),
        ((0.5, 2e-3), (0.6, 1e-3), False),
        ((0.6, 1e-3), (0.5, 2e-3), False),
        ((0.6, 2e-3), (0.5, 1e-3), False),
    ],
)
def test_version_beats_another_where_it_is_worse_in_nothing_and_better_in_something(
    mine: tuple[float, float], theirs: tuple[float, float], better: bool
) -> None:
    assert version(*mine).beats(version(*theirs)) is better


def test_champion_moves_only_to_a_better_version(client: MlflowClient, run: TrackedRun) -> None:
    assert add(client, run, measured(600, 1e-3)).aliases == (CHAMPION,)
    assert add(client, run, measured(500, 2e-3)).aliases == ()
    assert add(client, run, measured(600, 2e-3)).aliases == ()
    assert resolve(client, NAME, CHAMPION).version == 1
    assert add(client, run, measured(550, 1e-3)).aliases == (CHAMPION,)
    assert resolve(client, NAME, CHAMPION).version == 4
    assert [version.version for version in list_versions(client)] == [4, 3, 2, 1]


def test_version_that_is_not_worth_serving_never_becomes_champion(client: MlflowClient, run: TrackedRun) -> None:
    assert add(client, run, measured(600, 1e-3), worth_serving=False).aliases == ()
    with pytest.raises(RegistryError):
        resolve(client, NAME, CHAMPION)
    add(client, run, measured(500, 1e-3))
    assert add(client, run, measured(400, 1e-4), worth_serving=False).aliases == ()
    assert resolve(client, NAME, CHAMPION).version == 2


def test_registering_an_old_version_again_takes_the_champion_from_no_better_one(
    client: MlflowClient, run: TrackedRun
) -> None:
    add(client, run, measured(600, 1e-3))
    add(client, run, measured(550, 1e-3))
    assert add(client, run, measured(600, 1e-3)).aliases == ()
    assert resolve(client, NAME, CHAMPION).version == 2


def test_champion_stays_when_the_server_cannot_say_who_it_is(
    client: MlflowClient, run: TrackedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MlflowException("try later", error_code=TEMPORARILY_UNAVAILABLE)

    add(client, run, measured(500, 1e-3))
    with monkeypatch.context() as patch:
        patch.setattr(client, "get_model_version_by_alias", fail)
        with pytest.raises((L2CError, MlflowException)):
            add(client, run, measured(600, 2e-3))
    assert resolve(client, NAME, CHAMPION).version == 1


def test_schedule_that_was_not_measured_is_refused_and_leaves_the_registry_whole(
    client: MlflowClient, run: TrackedRun
) -> None:
    add(client, run, measured())
    with pytest.raises(L2CError):
        add(client, run, small_schedule())
    assert [version.version for version in list_versions(client)] == [1]


def test_versions_are_listed_by_name_and_newest_first(client: MlflowClient, run: TrackedRun) -> None:
    assert list_versions(client) == []
    add(client, run, measured(600))
    add(client, run, measured(500))
    assert [(version.version, version.aliases) for version in list_versions(client, NAME)] == [
        (2, (CHAMPION,)),
        (1, ()),
    ]
    assert list_versions(client, "other") == []


def test_models_of_others_in_the_same_registry_are_left_out(client: MlflowClient, run: TrackedRun) -> None:
    client.create_registered_model("theirs")
    client.create_model_version("theirs", "runs:/none", run.id)
    assert list_versions(client) == []


def test_schedule_of_a_version_is_the_one_that_was_registered(client: MlflowClient, run: TrackedRun) -> None:
    schedule = measured()
    registered = add(client, run, schedule)
    assert load_schedule(registered) == schedule
    assert load_schedule(get_version(client, NAME, 1)).to_json() == schedule.to_json()


def artifact(home: Path) -> Path:
    (path,) = home.rglob("schedule.json")
    return path


def test_artifact_that_is_another_schedule_is_refused(
    client: MlflowClient, run: TrackedRun, registry_home: Path
) -> None:
    registered = add(client, run, measured())
    artifact(registry_home).write_text(measured(500).to_json())
    with pytest.raises(RegistryError) as caught:
        load_schedule(registered)
    assert caught.value.subject == f"models:/{NAME}/1"


def test_corrupt_artifact_is_refused_naming_the_version(
    client: MlflowClient, run: TrackedRun, registry_home: Path
) -> None:
    registered = add(client, run, measured())
    artifact(registry_home).write_text(measured().to_json()[:100])
    with pytest.raises(ScheduleError, match=f"models:/{NAME}/1"):
        load_schedule(registered)


@pytest.mark.parametrize("gone", [lambda path: path, lambda path: path.parents[1]], ids=["file", "folder"])
def test_missing_artifact_is_refused_in_one_line_naming_the_version(
    client: MlflowClient, run: TrackedRun, registry_home: Path, gone: Callable[[Path], Path]
) -> None:
    registered = add(client, run, measured())
    path = gone(artifact(registry_home))
    path.rename(registry_home / "gone")
    with pytest.raises(RegistryError) as caught:
        load_schedule(registered)
    assert caught.value.subject == f"models:/{NAME}/1"
    assert "\n" not in str(caught.value)


def test_unknown_alias_and_unknown_model_are_refused_naming_them(client: MlflowClient, run: TrackedRun) -> None:
    add(client, run, measured())
    for name, alias in ((NAME, "fast"), ("none-ddim-20", CHAMPION)):
        with pytest.raises(RegistryError) as caught:
            resolve(client, name, alias)
        assert caught.value.subject == f"{name}@{alias}"
        assert caught.value.exit_code == 2


def test_champion_draws_what_the_pipeline_draws(
    client: MlflowClient, run: TrackedRun, digits_pipeline: Pipeline, half: Schedule
) -> None:
    add(client, run, half)
    model = mlflow.pyfunc.load_model("models:/digits-dit-ddim-4@champion")
    made = model.predict(pd.DataFrame({"label": [3, 8], "seed": [0, 123]}))
    wanted = to_pixels(digits_pipeline.generate([3, 8], [0, 123], half)).numpy()
    assert made.dtype == np.uint8
    assert np.array_equal(made, wanted)


def test_champion_refuses_a_label_that_is_no_class(client: MlflowClient, run: TrackedRun, half: Schedule) -> None:
    add(client, run, half)
    model = mlflow.pyfunc.load_model("models:/digits-dit-ddim-4@champion")
    with pytest.raises(L2CError, match="label"):
        model.predict(pd.DataFrame({"label": [10], "seed": [0]}))


def test_artifact_holds_no_pickle(client: MlflowClient, run: TrackedRun, registry_home: Path) -> None:
    add(client, run, measured())
    files = [path for path in (registry_home / "artifacts").rglob("*") if path.is_file()]
    assert artifact(registry_home) in files
    for path in files:
        assert path.suffix not in {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"}
        assert not path.read_bytes().startswith(b"\x80")
