"""What a run has come to, on its way to the tracking server: kept in a file until that has taken all of it."""

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
"""Size limit of a file of results, which has every schedule of a run twice, and pictures of them."""


class Results(BaseModel):
    """All that the MLflow run and the registry are told at the end."""

    model_config = Registration.model_config

    experiment: Name
    run: Name
    metrics: dict[int, dict[str, float]]
    """By step."""
    artifacts: dict[str, bytes]
    """By file name, which may begin with a folder."""
    registrations: list[Registration]
    """Of versions, the first one first."""


def deliver(client: MlflowClient, run: TrackedRun, results: Results) -> list[RegisteredVersion]:
    """Logs the results of the run and registers their versions; what was delivered before is not doubled.

    Raises:
        UnreachableError: the server does not answer. The results are in a file then, see `undelivered`.
        StorageError: nor can that be written.
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
    """Files with what no server has taken yet, by the names of their experiments and runs."""
    return sorted(_folder().glob("*/*.json"))


def push(client: MlflowClient, on_version: Callable[[RegisteredVersion], None]) -> None:
    """Delivers all that is undelivered, and marks its runs as finished.

    Args:
        on_version: called with each version that was made of it.

    Raises:
        UnreachableError: the server does not answer; what it has not taken stays where it is.
        L2CError: a file is damaged, or the server does not take it; it stays where it is, and all others were
            delivered.
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
    """Raises UnreachableError: the server is away, and does not only refuse what it was told."""
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
