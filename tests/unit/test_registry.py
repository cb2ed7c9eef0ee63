import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lineages import add
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from registry_factories import NAME, PROTOCOL, add_foreign, measured
from unit_factories import small_schedule

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.errors import L2CError, RegistryError, ScheduleError
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import (
    CHAMPION,
    RegisteredVersion,
    get_version,
    list_versions,
    load_schedule,
    model_name,
    resolve,
)
from l2c_ray.schedule import Schedule


def artifact(home: Path) -> Path:
    (path,) = home.rglob("schedule.json")
    return path


def test_version_is_tagged_with_what_it_is(client: MlflowClient, run: TrackedRun) -> None:
    schedule = measured(cached=600, mse=1.5e-3)
    registered = add(client, run, schedule, speedup=1.9)
    tags = client.get_model_version(NAME, "1").tags
    assert tags["sha256"] == schedule.sha256
    assert float(tags["compute_share"]) == 0.6
    assert float(tags["metric.mse"]) == 1.5e-3
    assert float(tags["metric.psnr"]) == 30.0
    assert tags["git_commit"] == "f" * 40
    assert tags["weights_sha256"] == "a" * 64
    assert tags["guidance"] == "1.5 standard"
    assert tags["protocol"] == PROTOCOL
    assert tags["metric.speedup"] == "1.9"
    assert registered == RegisteredVersion(
        NAME, 1, (CHAMPION,), schedule.sha256, 0.6, 1.5e-3, "a" * 64, "1.5 standard", PROTOCOL, run.id, "f" * 40, True
    )
    assert registered.uri == f"models:/{NAME}/1"


def test_registered_name_has_a_hash_of_weights_not_in_the_package(digits_pipeline: Pipeline) -> None:
    embedded = digits_pipeline.model.identity()
    other = embedded.model_copy(update={"weights_sha256": "1a2b3c4d" + "0" * 56})
    assert model_name(embedded, "ddim", 20) == "digits-dit-ddim-20"
    assert model_name(other, "ddim", 20) == "digits-dit-1a2b3c4d-ddim-20"


def test_schedule_that_knows_no_commit_is_registered_all_the_same(client: MlflowClient, run: TrackedRun) -> None:
    assert add(client, run, measured(git_commit=None)).git_commit == "unknown"


def test_same_schedule_is_one_version(client: MlflowClient, run: TrackedRun) -> None:
    first = add(client, run, measured())
    assert add(client, TrackedRun(client, "experiment", "second", {}), measured()) == first
    assert list_versions(client) == [first]


def test_unmeasured_schedule_is_refused_and_changes_nothing(client: MlflowClient, run: TrackedRun) -> None:
    add(client, run, measured())
    with pytest.raises(L2CError):
        add(client, run, small_schedule())
    assert [version.version for version in list_versions(client)] == [1]


def test_versions_are_listed_by_name_and_newest_first(client: MlflowClient, run: TrackedRun) -> None:
    assert list_versions(client) == []
    add(client, run, measured(600))
    add(client, run, measured(500))
    assert [(version.version, version.aliases) for version in list_versions(client)] == [(2, (CHAMPION,)), (1, ())]


@pytest.mark.parametrize(
    "tags", [{}, {"sha256": "0" * 64}, {"sha256": "0" * 64, "compute_share": "half"}], ids=["none", "one", "no number"]
)
def test_versions_of_others_are_left_out_of_the_list_with_a_word(
    client: MlflowClient, run: TrackedRun, caplog: pytest.LogCaptureFixture, tags: dict[str, str]
) -> None:
    mine = add(client, run, measured())
    foreign = add_foreign(client, run, NAME, **tags)
    with caplog.at_level(logging.WARNING):
        assert list_versions(client) == [mine]
    assert f"models:/{NAME}/{foreign}" in caplog.text


def test_version_of_others_is_refused_where_it_is_asked_for(client: MlflowClient, run: TrackedRun) -> None:
    client.create_registered_model("theirs")
    foreign = add_foreign(client, run, "theirs")
    client.set_registered_model_alias("theirs", "best", str(foreign))
    for ask in (lambda: get_version(client, "theirs", foreign), lambda: resolve(client, "theirs", "best")):
        with pytest.raises(RegistryError, match="sha256") as caught:
            ask()
        assert caught.value.subject == f"models:/theirs/{foreign}"


def test_version_that_is_not_there_is_refused_naming_it(client: MlflowClient, run: TrackedRun) -> None:
    add(client, run, measured())
    with pytest.raises(RegistryError) as caught:
        get_version(client, NAME, 2)
    assert caught.value.subject == f"models:/{NAME}/2"


def test_two_that_register_the_same_model_at_once_both_succeed(
    registry_home: Path, client: MlflowClient, run: TrackedRun
) -> None:
    schedules = [measured(600, 1e-3), measured(500, 2e-3)]
    together = threading.Barrier(len(schedules))

    def register_one(schedule: Schedule) -> RegisteredVersion:
        own = MlflowClient(client.tracking_uri)
        own_run = TrackedRun(own, "experiment", schedule.sha256, {})
        together.wait(timeout=60)
        return add(own, own_run, schedule)

    with ThreadPoolExecutor(len(schedules)) as pool:
        registered = list(pool.map(register_one, schedules))
    assert sorted(version.version for version in registered) == [1, 2]
    assert [version.sha256 for version in registered] == [schedule.sha256 for schedule in schedules]
    assert resolve(client, NAME, CHAMPION).version in (1, 2)


def test_schedule_of_a_version_is_the_one_that_was_registered(client: MlflowClient, run: TrackedRun) -> None:
    schedule = measured()
    registered = add(client, run, schedule)
    assert load_schedule(registered) == schedule
    assert load_schedule(get_version(client, NAME, 1)).to_json() == schedule.to_json()


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


def test_artifact_holds_no_pickle(client: MlflowClient, run: TrackedRun, registry_home: Path) -> None:
    add(client, run, measured())
    files = [path for path in (registry_home / "artifacts").rglob("*") if path.is_file()]
    assert artifact(registry_home) in files
    for path in files:
        assert path.suffix not in {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"}
        assert not path.read_bytes().startswith(b"\x80")


@pytest.mark.parametrize("tag", ["metric.mse", "compute_share"])
@pytest.mark.parametrize("value", ["nan", "inf", "much"])
def test_version_without_a_finite_error_and_cost_is_no_schedule(
    client: MlflowClient, run: TrackedRun, tag: str, value: str
) -> None:
    add(client, run, measured())
    client.set_model_version_tag(NAME, "1", tag, value)
    with pytest.raises(RegistryError, match="is not a schedule"):
        get_version(client, NAME, 1)


def test_name_of_a_prompt_is_refused_and_the_prompt_stays_as_it_is(client: MlflowClient, run: TrackedRun) -> None:
    client.register_prompt(NAME, "Draw a {{digit}}")
    with pytest.raises(RegistryError, match="is a prompt in the registry"):
        add(client, run, measured())
    assert client.get_prompt_version(NAME, 1).template == "Draw a {{digit}}"
    with pytest.raises(MlflowException, match="version=2\\) not found"):
        client.get_prompt_version(NAME, 2)


def test_name_of_another_programs_model_is_refused_and_gets_no_version(client: MlflowClient, run: TrackedRun) -> None:
    client.create_registered_model(NAME)
    add_foreign(client, run, NAME, stage="production")
    with pytest.raises(RegistryError, match="another program's model"):
        add(client, run, measured())
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 1
