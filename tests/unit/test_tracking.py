import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from l2c_ray.errors import L2CError, StorageError, UnreachableError
from l2c_ray.registry import tracking
from l2c_ray.registry.tracking import TrackedRun


def refusal_of_connecting_to(uri: str, monkeypatch: pytest.MonkeyPatch) -> L2CError:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    start = time.monotonic()
    with pytest.raises(L2CError) as caught:
        tracking.connect()
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)
    return caught.value


def test_without_a_server_the_registry_is_a_file_under_home(registry_home: Path, client: MlflowClient) -> None:
    assert tracking.tracking_uri() == f"sqlite:///{registry_home / 'mlflow.db'}"
    assert client.tracking_uri == tracking.tracking_uri()


def test_run_has_its_settings_metrics_tags_and_files(client: MlflowClient) -> None:
    run = TrackedRun(client, "experiment", "first", {"router": {"lambda": 0.5}, "steps": 20})
    run.log_metrics({3: {"loss": 0.25, "error": 0.5}, 4: {"loss": 0.125}})
    run.log_file("schedule.json", b"{}")
    run.end("FINISHED")
    found = client.get_run(run.id)
    assert found.data.params == {"router.lambda": "0.5", "steps": "20"}
    assert [(metric.step, metric.value) for metric in client.get_metric_history(run.id, "loss")] == [
        (3, 0.25),
        (4, 0.125),
    ]
    assert found.data.metrics["error"] == 0.5
    assert found.info.status == "FINISHED"
    assert Path(client.download_artifacts(run.id, "schedule.json")).read_bytes() == b"{}"


def test_run_of_the_same_name_is_gone_on_with(client: MlflowClient) -> None:
    first = TrackedRun(client, "experiment", "first", {"steps": 20})
    first.log_metrics({1: {"loss": 1.0}})
    first.end("FAILED")
    again = TrackedRun(client, "experiment", "first", {"steps": 20})
    again.log_metrics({2: {"loss": 0.5}})
    assert again.id == first.id
    assert client.get_run(first.id).info.status == "RUNNING"
    assert [metric.step for metric in client.get_metric_history(first.id, "loss")] == [1, 2]


def test_more_metrics_than_one_call_takes_are_all_logged(client: MlflowClient) -> None:
    run = TrackedRun(client, "experiment", "first", {})
    run.log_metrics({step: {"loss": 1.0 / (step + 1), "error": 1.0} for step in range(600)})
    assert [metric.step for metric in client.get_metric_history(run.id, "loss")] == list(range(600))


def test_run_of_another_name_or_experiment_is_another_run(client: MlflowClient) -> None:
    named = [("experiment", "first"), ("experiment", "second"), ("other", "first")]
    assert len({TrackedRun(client, experiment, name, {}).id for experiment, name in named}) == 3


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_closed_port_is_told_with_its_address_and_without_its_password(
    monkeypatch: pytest.MonkeyPatch, unused_port: int, scheme: str
) -> None:
    error = refusal_of_connecting_to(f"{scheme}://me:s3cret@127.0.0.1:{unused_port}/db", monkeypatch)
    assert isinstance(error, UnreachableError)
    assert f"127.0.0.1:{unused_port}" in error.subject
    assert "s3cret" not in str(error)
    assert error.exit_code == 1


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:99999", "http://127.0.0.1:port", "nonsense://nowhere", "http://name.invalid"]
)
def test_address_that_cannot_be_one_is_told(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    assert uri in refusal_of_connecting_to(uri, monkeypatch).subject


def test_file_that_is_no_database_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    error = refusal_of_connecting_to(f"sqlite:///{tmp_path / 'mlflow.db'}", monkeypatch)
    assert str(tmp_path / "mlflow.db") in str(error)


def test_folder_of_the_database_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refusal_of_connecting_to(f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}", monkeypatch)
    assert isinstance(error, StorageError)


def test_server_that_never_answers_is_told_within_ten_seconds(silent_port: int) -> None:
    script = f"""
import time
from l2c_ray.errors import UnreachableError
from l2c_ray.registry import tracking
start = time.monotonic()
try:
    tracking.connect()
except UnreachableError as error:
    assert "127.0.0.1:{silent_port}" in str(error), error
    assert "s3cret" not in str(error), error
    print(f"refused after {{time.monotonic() - start:.1f}} s")
"""
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"http://me:s3cret@127.0.0.1:{silent_port}"}
    # Ten seconds to answer and as many to import MLflow.
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[2]) < 10
