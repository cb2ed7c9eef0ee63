"""Delivery of a run's results to the tracking server; a file keeps them while it is away.

An outage may outlast the job, so results wait in a file for `l2c registry push`, not in a loop of retries.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from l2c_ray.errors import IntegrityError, L2CError, UnreachableError
from l2c_ray.registry.registration import Registration, register
from l2c_ray.registry.tracking import TrackedRun, server_errors
from l2c_ray.registry.versions import RegisteredVersion
from l2c_ray.schedule import Name
from l2c_ray.storage import files

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MOST_BYTES = 1 << 30
"""Size limit of a file of results, which holds every schedule of a run twice, and images."""


class Results(BaseModel):
    """Results of a run for its MLflow run and the registry."""

    model_config = Registration.model_config

    experiment: Name
    run: Name
    metrics: dict[int, dict[str, float]]
    """Values by name, by step."""
    artifacts: dict[str, bytes]
    """Content by file name, which may begin with a folder."""
    registrations: list[Registration]
    """Registrations of versions, in order."""


def deliver(client: MlflowClient, run: TrackedRun, results: Results) -> list[RegisteredVersion]:
    """Logs the results of the run and registers their versions; idempotent.

    Raises:
        UnreachableError: the server does not answer; the results are in a file, see `undelivered`.
        StorageError: that file cannot be written.
    """
    try:
        run.log_new_metrics(results.metrics)
        for name, content in results.artifacts.items():
            run.log_file(name, content)
        versions = [register(client, asked) for asked in results.registrations]
    except UnreachableError as error:
        path = files.write_text(_place_of(results), results.model_dump_json(indent=1))
        remedy = f"the results are kept in {path}: when it answers again, `l2c registry push` takes them there"
        raise UnreachableError(error.subject, error.problem, remedy) from error
    _place_of(results).unlink(missing_ok=True)
    return versions


def undelivered() -> list[Path]:
    """Files of results that no server has taken yet, sorted by experiment and run."""
    return sorted(_folder().glob("*/*.json"))


def push(client: MlflowClient, on_version: Callable[[RegisteredVersion], None]) -> None:
    """Delivers all undelivered results, and marks their runs as finished.

    Args:
        on_version: called with each version that was made.

    Raises:
        UnreachableError: the server does not answer; files that it has not taken stay.
        L2CError: a file is damaged or refused; it stays, and all others were delivered.
    """
    failed: L2CError | None = None
    for path in undelivered():
        try:
            _push(client, _read(path), on_version)
        except L2CError as error:
            if isinstance(error, UnreachableError):
                _require_an_answer(client)
            failed = failed or error
    if failed is not None:
        raise failed


def _push(client: MlflowClient, results: Results, on_version: Callable[[RegisteredVersion], None]) -> None:
    run = TrackedRun(client, results.experiment, results.run, {})
    try:
        for version in deliver(client, run, results):
            on_version(version)
    except L2CError:
        run.end("FAILED")
        raise
    run.end("FINISHED")


@server_errors()
def _require_an_answer(client: MlflowClient) -> None:
    """Raises an UnreachableError if the server is away, and did not only refuse a request."""
    client.search_experiments(max_results=1)


def _read(path: Path) -> Results:
    try:
        return Results.model_validate_json(files.read_text(path, _MOST_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        remedy = "remove it and submit its run again, which goes on from its last checkpoint"
        raise IntegrityError(str(path), f"is damaged ({where}: {first['msg']})", remedy) from error


def _place_of(results: Results) -> Path:
    return files.make_writable(_folder() / results.experiment) / f"{results.run}.json"


def _folder() -> Path:
    return files.home() / "undelivered"
