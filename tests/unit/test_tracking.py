import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT
from unit_factories import learn_config

from l2c_ray.errors import ConfigError, L2CError, StorageError, UnreachableError
from l2c_ray.registry import tracking
from l2c_ray.registry.tracking import TrackedRun


def refusal_of_connecting_to(uri: str, monkeypatch: pytest.MonkeyPatch) -> L2CError:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(L2CError) as caught:
        tracking.connect()
    assert "\n" not in str(caught.value)
    return caught.value


@contextmanager
def failing_server(status: int) -> Iterator[str]:
    """The address of a server that answers everything with this status."""

    class Failing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def break_database(home: Path) -> None:
    """Nothing about runs can be read or written from now on."""
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        database.execute("ALTER TABLE runs RENAME TO gone")


def test_without_a_server_the_registry_is_a_file_under_home(registry_home: Path, client: MlflowClient) -> None:
    assert tracking.tracking_uri() == f"sqlite:///{registry_home / 'mlflow.db'}"
    assert client.tracking_uri == tracking.tracking_uri()


def test_two_that_log_into_the_same_new_folder_at_once_both_do(
    client: MlflowClient, run: TrackedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)
    make = os.mkdir

    def slow(path: str, mode: int = 0o777) -> None:
        # Meanwhile the other sees that there is no such folder yet.
        time.sleep(0.05)
        make(path, mode)

    monkeypatch.setattr(os, "mkdir", slow)

    def log(number: int) -> None:
        for folder in range(5):
            both.wait(timeout=60)
            run.log_file(f"{folder}/{number}.json", b"{}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(log, range(2)))
    for folder in range(5):
        files = [file.path for file in client.list_artifacts(run.id, str(folder))]
        assert files == [f"{folder}/0.json", f"{folder}/1.json"]


def test_run_has_its_settings_metrics_tags_and_files(client: MlflowClient) -> None:
    run = TrackedRun(client, "experiment", "first", {"router": {"lambda": 0.5}, "steps": 20})
    run.log_metrics({3: {"loss": 0.25, "error": 0.5}, 4: {"loss": 0.125}})
    run.log_file("schedule.json", b"{}")
    run.log_file("0.500/schedule.json", b"[]")
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
    assert Path(client.download_artifacts(run.id, "0.500/schedule.json")).read_bytes() == b"[]"


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


def test_experiment_that_was_deleted_is_refused_with_a_way_to_restore_it(client: MlflowClient) -> None:
    TrackedRun(client, "experiment", "first", {})
    deleted = client.get_experiment_by_name("experiment")
    assert deleted is not None
    client.delete_experiment(deleted.experiment_id)
    with pytest.raises(ConfigError, match=f"restore --experiment-id {deleted.experiment_id}") as caught:
        TrackedRun(client, "experiment", "second", {})
    assert caught.value.subject == "run.experiment"


def test_runs_that_begin_at_once_share_a_new_experiment(client: MlflowClient) -> None:
    together = threading.Barrier(2)

    def begin(name: str) -> str:
        own = MlflowClient(client.tracking_uri)
        together.wait(timeout=60)
        return TrackedRun(own, "new", name, {}).id

    with ThreadPoolExecutor(2) as pool:
        begun = list(pool.map(begin, ["first", "second"]))
    assert len({client.get_run(run).info.experiment_id for run in begun}) == 1


@pytest.mark.parametrize("name", ["", "../elsewhere", "/", "a/b", "a\nb", " a", "'", "a" * 129])
def test_experiment_name_that_could_not_be_a_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="experiment"):
        learn_config(run={"experiment": name})


@pytest.mark.parametrize(
    "work",
    [
        lambda client, run: TrackedRun(client, "experiment", "second", {}),
        lambda client, run: run.log_metrics({1: {"loss": 1.0}}),
        lambda client, run: run.log_file("name", b""),
    ],
    ids=["begin", "metrics", "file"],
)
def test_server_that_fails_during_a_run_is_a_typed_error(
    client: MlflowClient, run: TrackedRun, registry_home: Path, work: Callable[[MlflowClient, TrackedRun], object]
) -> None:
    break_database(registry_home)
    with pytest.raises(UnreachableError) as caught:
        work(client, run)
    assert caught.value.subject == tracking.tracking_uri()
    assert "\n" not in str(caught.value)


def test_end_that_cannot_be_marked_is_told_and_hides_nothing(
    run: TrackedRun, registry_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    break_database(registry_home)
    with caplog.at_level(logging.WARNING):
        run.end("FAILED")
    assert f"run {run.id} could not be marked as FAILED" in caplog.text


@pytest.mark.parametrize(
    "address",
    [
        "http://me:s3cret@{}/db",
        "http://s3cret@{}/db",
        "postgresql://me:s3cret@{}/db",
        "postgresql://{}/db?user=me&password=s3cret",
    ],
)
def test_closed_port_is_told_with_its_address_and_without_its_password(
    monkeypatch: pytest.MonkeyPatch, unused_port: int, address: str
) -> None:
    error = refusal_of_connecting_to(address.format(f"127.0.0.1:{unused_port}"), monkeypatch)
    assert isinstance(error, UnreachableError)
    assert f"127.0.0.1:{unused_port}" in error.subject
    assert "s3cret" not in str(error)
    assert error.exit_code == 1


def test_name_that_no_machine_has_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal_of_connecting_to("http://name.invalid", monkeypatch)
    assert isinstance(error, UnreachableError)
    assert "http://name.invalid" in error.subject


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
        "http://[bad",
        "http://***@[bad",
        "nonsense://nowhere",
        "localhost:5000",
        "http:foo",
        "sqlite:rel.db",
        "mysql+nothing:///db",
        "/folder/mlruns",
    ],
)
def test_address_that_cannot_be_one_is_bad_input(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    error = refusal_of_connecting_to(uri.replace("***", "me:s3cret"), monkeypatch)
    assert isinstance(error, ConfigError)
    assert error.subject == f"MLFLOW_TRACKING_URI={uri}"
    assert "s3cret" not in str(error)


@pytest.mark.parametrize("status", [500, 503])
def test_server_that_answers_with_its_own_error_is_told_at_once(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    with failing_server(status) as address:
        error = refusal_of_connecting_to(address, monkeypatch)
    assert isinstance(error, UnreachableError)
    assert error.subject == address
    assert str(status) in error.problem


def test_retries_are_few_unless_the_user_wants_others(registry_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "unset")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    tracking.connect()
    assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 5
    assert MLFLOW_HTTP_REQUEST_TIMEOUT.get() <= 30


def test_file_that_is_no_database_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    error = refusal_of_connecting_to(f"sqlite:///{tmp_path / 'mlflow.db'}", monkeypatch)
    assert str(tmp_path / "mlflow.db") in str(error)


def test_database_that_cannot_be_opened_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    error = refusal_of_connecting_to(f"sqlite:///{tmp_path / 'mlflow.db'}", monkeypatch)
    assert isinstance(error, UnreachableError)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:"])
def test_database_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    assert isinstance(refusal_of_connecting_to(uri, monkeypatch), ConfigError)


def test_options_of_a_database_are_taken(monkeypatch: pytest.MonkeyPatch, registry_home: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registry_home / 'mlflow.db'}?timeout=3")
    assert tracking.connect().search_experiments(max_results=1)


@pytest.mark.parametrize("folder", ["my%20home", "home?", "a?b=c"])
def test_home_that_an_address_would_misname_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    monkeypatch.setenv("L2C_HOME", str(tmp_path / folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="L2C_HOME"):
        tracking.connect()
    assert list(tmp_path.iterdir()) == []


def test_folder_of_the_database_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refusal_of_connecting_to(f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}", monkeypatch)
    assert isinstance(error, StorageError)


def test_server_that_never_answers_is_told_before_mlflow_asks_it(
    monkeypatch: pytest.MonkeyPatch, silent_port: int
) -> None:
    monkeypatch.setattr(tracking, "_CONNECT_SECONDS", 0.25)
    error = refusal_of_connecting_to(f"http://me:s3cret@127.0.0.1:{silent_port}", monkeypatch)
    assert isinstance(error, UnreachableError)
    assert f"127.0.0.1:{silent_port}" in error.subject
    assert "read timeout=0.25" in error.problem
    assert "s3cret" not in str(error)


def test_run_of_another_kind_of_job_is_not_gone_on_with(client: MlflowClient) -> None:
    learned = TrackedRun(client, "experiment", "same", {"router": {"lambda": 1}, "run": {"name": "same"}})
    learned.end("FINISHED")
    with pytest.raises(ConfigError, match=r"run same: is the MLflow run of another kind of job.*router, run"):
        TrackedRun(client, "experiment", "same", {"study": {"trials": 3}, "space": {}})
    assert client.get_run(learned.id).info.status == "FINISHED"
    TrackedRun(client, "experiment", "same", {"router": {"lambda": 2}})
