"""The MLflow server in use, and one run on it."""

import os
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from l2c_ray.errors import UnreachableError
from l2c_ray.storage.files import home, make_writable

RUN_NAME_TAG = "l2c.run"

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

_DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306}
_CONNECT_SECONDS = 5
_METRICS_A_CALL = 1000


def tracking_uri() -> str:
    """`$MLFLOW_TRACKING_URI`, or a sqlite file under the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def connect() -> MlflowClient:
    """A client of the tracking server, which has answered once.

    Raises:
        UnreachableError: it does not answer.
        StorageError: the folder of a sqlite file cannot be written.
    """
    uri = tracking_uri()
    shown = without_password(uri)
    # A bar for files of a few kilobytes only clutters logs.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if uri.startswith("sqlite:///"):
        make_writable(Path(uri.removeprefix("sqlite:///")).parent)
    try:
        _knock(uri)
        mlflow.set_tracking_uri(uri)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except (OSError, ValueError, MlflowException, SQLAlchemyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].replace(uri, shown)
        raise UnreachableError(
            shown,
            f"the tracking server does not answer ({reason})",
            "start it or set MLFLOW_TRACKING_URI",
        ) from error
    return client


class TrackedRun:
    """One MLflow run. A run of the same name in the same experiment is gone on with, not doubled."""

    def __init__(self, client: MlflowClient, experiment: str, name: str, config: Mapping[str, Any]) -> None:
        self._client = client
        experiment_id = _experiment_id(client, experiment)
        found = client.search_runs([experiment_id], f"tags.`{RUN_NAME_TAG}` = '{name}'", max_results=1)
        if found:
            self.id: str = found[0].info.run_id
            client.update_run(self.id, status="RUNNING")
        else:
            run = client.create_run(experiment_id, run_name=name, tags={RUN_NAME_TAG: name})
            self.id = run.info.run_id
            params = [Param(key, str(value)) for key, value in _flatten(config).items()]
            client.log_batch(self.id, params=params)

    def log_metrics(self, points: Mapping[int, Mapping[str, float]]) -> None:
        """Adds metrics by step, in as few calls as MLflow allows."""
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for step, values in points.items() for name, value in values.items()]
        for start in range(0, len(metrics), _METRICS_A_CALL):
            self._client.log_batch(self.id, metrics=metrics[start : start + _METRICS_A_CALL])

    def log_file(self, name: str, content: bytes) -> None:
        """Adds an artifact."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(content)
            self._client.log_artifact(self.id, str(path))

    def end(self, status: RunStatus) -> None:
        self._client.set_terminated(self.id, status)


def _experiment_id(client: MlflowClient, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment:
        return str(experiment.experiment_id)
    # On a database without a server MLflow would put artifacts into the current folder, which a job loses.
    local = not tracking_uri().startswith("http")
    artifacts = (home() / "artifacts" / name).as_uri() if local else None
    return str(client.create_experiment(name, artifact_location=artifacts))


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _knock(uri: str) -> None:
    """Asks a server for a sign of life within seconds; MLflow's own retries go on for minutes.

    Raises:
        OSError: nobody answers.
        ValueError: the address is none.
    """
    address = urlsplit(uri)
    if address.scheme in ("http", "https"):
        # Any answer will do, also a refusal: not every server has this route.
        requests.get(f"{uri.rstrip('/')}/health", timeout=_CONNECT_SECONDS)
    elif address.hostname:
        port = address.port or _DEFAULT_PORTS.get(address.scheme.split("+")[0], 0)
        socket.create_connection((address.hostname, port), timeout=_CONNECT_SECONDS).close()


def without_password(uri: str) -> str:
    """The address, fit to be shown."""
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@") if password else uri
