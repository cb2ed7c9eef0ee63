"""Results that the tracking server was away for: kept in a file, and taken there later."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from lineages import lineage
from mlflow import MlflowClient
from registry_factories import NAME, measured

from l2c_ray.errors import IntegrityError, UnreachableError
from l2c_ray.registry import registration, tracking
from l2c_ray.registry.delivery import Results, deliver, push, undelivered
from l2c_ray.registry.registration import Registration
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import RegisteredVersion
from l2c_ray.storage.files import home

PNG = b"\x89PNG\r\n\x1a\n\xff"


@pytest.fixture
def results(run: TrackedRun) -> Results:
    asked = Registration(
        schedule=measured(),
        lineage=lineage(run, config={"router": {"budget": [0.5]}}),
        image_shape=(1, 8, 8),
        metrics={"speedup": 1.5},
        samples=PNG,
        worth_serving=True,
    )
    return Results(
        experiment="experiment",
        run="first",
        metrics={7: {"loss": 0.25}},
        artifacts={"folder/frontier.png": PNG},
        registrations=[asked],
    )


def test_results_wait_in_a_file_for_a_server_that_is_away(
    client: MlflowClient, run: TrackedRun, results: Results, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{unused_port}"
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        away.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(UnreachableError, match="l2c registry push") as caught:
            deliver(MlflowClient(address), run, results)
        with pytest.raises(UnreachableError, match="other/first"):
            deliver(MlflowClient(address), run, results.model_copy(update={"experiment": "other"}))
    (home() / "undelivered" / "other" / "first.json").unlink()
    (path,) = home().glob("undelivered/*/*")
    assert str(path) in str(caught.value)
    assert undelivered() == [path]
    assert Results.model_validate_json(path.read_text()) == results

    versions: list[RegisteredVersion] = []
    push(tracking.connect(), versions.append)
    (version,) = versions
    assert (version.name, version.version, version.run_id) == (NAME, 1, run.id)
    assert [metric.step for metric in client.get_metric_history(run.id, "loss")] == [7]
    assert [file.path for file in client.list_artifacts(run.id, "folder")] == ["folder/frontier.png"]
    assert client.get_run(run.id).info.status == "FINISHED"
    assert undelivered() == []


def test_of_two_that_deliver_at_once_one_makes_the_version(
    client: MlflowClient, run: TrackedRun, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, both, first = registration._known, threading.Barrier(2), threading.local()

    def known(*place: Any) -> RegisteredVersion | None:
        found = look(*place)
        if not hasattr(first, "is_over"):
            first.is_over = True
            both.wait(timeout=60)
        return found

    monkeypatch.setattr(registration, "_known", known)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: deliver(client, run, results), range(2)))
    assert [[version.version for version in versions] for versions in made] == [[1], [1]]
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 1


@pytest.mark.parametrize("content", ["", "{}", '{"experiment": "e"', '{"run": 3}', "\0"])
def test_damaged_file_is_named_and_keeps_no_other_back(client: MlflowClient, results: Results, content: str) -> None:
    path = home() / "undelivered" / "experiment" / "a-first.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    (path.parent / "first.json").write_text(results.model_dump_json())
    versions: list[RegisteredVersion] = []
    with pytest.raises(IntegrityError, match="is damaged") as caught:
        push(client, versions.append)
    assert caught.value.subject == str(path)
    assert [version.version for version in versions] == [1]
    assert undelivered() == [path]
