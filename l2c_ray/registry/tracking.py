"""The MLflow server in use, and one run on it."""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from l2c_ray.errors import ConfigError, L2CError, UnreachableError
from l2c_ray.logs import logger
from l2c_ray.printable import masked
from l2c_ray.storage.files import home, make_writable

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_NAME_TAG = "l2c.run"

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

_DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306}
_CONNECT_SECONDS = 5
_METRICS_A_CALL = 1000

# MLflow reads these at every call. Its defaults, 7 retries of 120 seconds, hold a job up for minutes when the server
# dies; these outlast a restart. Progress bars clutter logs, and addresses of runs do not belong on stdout beside JSON.
_CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

_log = logger(__name__)


def tracking_uri() -> str:
    """`$MLFLOW_TRACKING_URI`, or a sqlite file under the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def connect() -> MlflowClient:
    """A client of the tracking server, which has answered once; the user's settings of MLflow are kept.

    Raises:
        ConfigError: `$MLFLOW_TRACKING_URI` is not an address, or that of a database in memory.
        UnreachableError: the server does not answer, or with an internal error.
        StorageError: the folder of a sqlite file cannot be written.
    """
    uri = tracking_uri()
    for name, value in _CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    # It logs every table that it creates in a new database.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    if uri.startswith("sqlite:"):
        _require_database(uri)

    from mlflow import MlflowClient, set_tracking_uri
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import ArgumentError

    with server_errors():
        try:
            _knock(uri)
            set_tracking_uri(uri)
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
        except (ValueError, ArgumentError, MlflowException) as error:
            if isinstance(error, MlflowException) and error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            raise _no_address(uri, error) from error
    return client


@contextmanager
def server_errors() -> Iterator[None]:
    """Converts every error of MLflow, its database or its artifact store; also a decorator.

    Raises:
        UnreachableError: names the server without its password.
    """
    try:
        yield
    except L2CError:
        raise
    except Exception as error:
        # MLflow passes on errors of requests, SQLAlchemy, botocore and other libraries.
        raise UnreachableError(
            tracking_uri(),
            f"the tracking server does not answer as it should ({reason(error)})",
            "start or mend it, or set MLFLOW_TRACKING_URI",
        ) from error


@contextmanager
def unless_there() -> Iterator[None]:
    """Ignores that something exists already, which another process may have created at the same time."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def reason(error: Exception) -> str:
    """Text of the error in one line, without secrets."""
    return (masked(str(error)).strip() or type(error).__name__).splitlines()[0]


class TrackedRun:
    """One MLflow run; an existing run of the same name and experiment is continued.

    Every method but `end` raises an UnreachableError if the server fails.
    """

    @server_errors()
    def __init__(self, client: MlflowClient, experiment: str, name: str, config: Mapping[str, Any]) -> None:
        """Finds or creates the run.

        Raises:
            ConfigError: the experiment was deleted, or the run belongs to a job of another kind.
        """
        self._client = client
        experiment_id = _experiment_id(client, experiment)
        found = client.search_runs([experiment_id], f"tags.`{RUN_NAME_TAG}` = '{name}'", max_results=1)
        if found:
            _require_the_same_job(name, config, found[0].data.params)
            self.id: str = found[0].info.run_id
            client.update_run(self.id, status="RUNNING")
        else:
            from mlflow.entities import Param

            run = client.create_run(experiment_id, run_name=name, tags={RUN_NAME_TAG: name})
            self.id = run.info.run_id
            params = [Param(key, str(value)) for key, value in _flatten(config).items()]
            client.log_batch(self.id, params=params)

    @server_errors()
    def log_metrics(self, points: Mapping[int, Mapping[str, float]]) -> None:
        """Logs metrics by step, in as few calls as MLflow allows."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for step, values in points.items() for name, value in values.items()]
        for start in range(0, len(metrics), _METRICS_A_CALL):
            self._client.log_batch(self.id, metrics=metrics[start : start + _METRICS_A_CALL])

    @server_errors()
    def log_new_metrics(self, points: Mapping[int, Mapping[str, float]]) -> None:
        """Logs those metrics that the run does not have at their step."""
        names = {name for values in points.values() for name in values}
        there = {(each.step, name) for name in names for each in self._client.get_metric_history(self.id, name)}
        new = {
            step: {name: value for name, value in values.items() if (step, name) not in there}
            for step, values in points.items()
        }
        self.log_metrics(new)

    @server_errors()
    def log_file(self, name: str, content: bytes) -> None:
        """Logs an artifact; its name may begin with a folder."""
        inner, _, file = name.rpartition("/")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, file)
            path.write_bytes(content)
            # MLflow writes a single file whole, but fails to copy a folder that another process creates meanwhile.
            self._client.log_artifact(self.id, str(path), inner or None)

    def end(self, status: RunStatus) -> None:
        """Marks the run as ended; never raises, so that it hides no error that ended the run."""
        try:
            with server_errors():
                self._client.set_terminated(self.id, status)
        except UnreachableError as error:
            _log.warning("run %s could not be marked as %s: %s", self.id, status, error)


def _experiment_id(client: MlflowClient, name: str) -> str:
    from mlflow.entities import LifecycleStage

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # On a database without a server MLflow would write artifacts to the current folder, which a job loses.
        local = not tracking_uri().startswith("http")
        artifacts = (home() / "artifacts" / name).as_uri() if local else None
        with unless_there():
            return str(client.create_experiment(name, artifact_location=artifacts))
        return _experiment_id(client, name)
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        restore = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        raise ConfigError("run.experiment", f"{name} was deleted", f"choose another name or restore it with {restore}")
    return str(experiment.experiment_id)


def _require_the_same_job(name: str, config: Mapping[str, Any], params: Mapping[str, str]) -> None:
    """Refuses a run whose settings share no table with the config, as jobs of different kinds do."""
    theirs = {key.partition(".")[0] for key in params}
    if config and theirs and theirs.isdisjoint(config):
        problem = f"is the MLflow run of another kind of job, with settings of {', '.join(sorted(theirs))[:200]}"
        raise ConfigError(f"run {name}", problem, "choose another run.name or study.name")


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _no_address(uri: str, error: Exception) -> ConfigError:
    problem = f"is not the address of a tracking server ({reason(error)})"
    return ConfigError(f"MLFLOW_TRACKING_URI={uri}", problem, "give one, for instance http://127.0.0.1:5000")


def _require_database(uri: str) -> None:
    """Opens a sqlite file once; MLflow would retry a broken one for two minutes.

    Raises:
        ConfigError: it is not an address, names no file, or SQLAlchemy would read another name from it.
        StorageError: its folder cannot be written.
        UnreachableError: it is not a database.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        name = make_url(uri).database or ""
    except ArgumentError as error:
        raise _no_address(uri, error) from error
    if name in ("", ":memory:"):
        raise ConfigError(f"MLFLOW_TRACKING_URI={uri}", "is in memory and lost at the end", "name a file")
    # A user's address may have options behind a question mark.
    written = uri.partition("?")[0] if os.environ.get("MLFLOW_TRACKING_URI") else uri
    if not written.endswith(f":///{name}"):
        remedy = "take a path (or L2C_HOME) without %, ? and #"
        raise ConfigError(f"MLFLOW_TRACKING_URI={uri}", f"is read as {name}", remedy)
    make_writable(Path(name).parent)
    try:
        with closing(sqlite3.connect(name)) as database:
            database.execute("pragma schema_version")
    except sqlite3.Error as error:
        raise UnreachableError(name, f"is no database ({error})", "name another file") from error


def _knock(uri: str) -> None:
    """Checks within seconds that a server answers; MLflow's retries take longer.

    Raises:
        OSError: it does not answer, or with an internal error.
        ValueError: the address is not valid.
    """
    address = urlsplit(uri)
    if address.scheme in ("http", "https"):
        import requests

        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=_CONNECT_SECONDS)
        # A refusal is an answer: not every server has this route.
        if answer.status_code >= requests.codes.server_error:
            answer.raise_for_status()
        return
    port = address.port or _DEFAULT_PORTS.get(address.scheme.split("+")[0])
    if address.hostname and port:
        socket.create_connection((address.hostname, port), timeout=_CONNECT_SECONDS).close()
