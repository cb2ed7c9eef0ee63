"""Schedules as versions of registered models, and the alias that serving follows."""

import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from l2c_ray.errors import RegistryError
from l2c_ray.models import zoo
from l2c_ray.models.checkpoints import WEIGHTS
from l2c_ray.registry.pyfunc import MODEL_CONFIG, signature
from l2c_ray.registry.tracking import reason, server_errors, unless_there
from l2c_ray.schedule import ModelIdentity, Quality, Schedule
from l2c_ray.storage.files import read_text

CHAMPION = "champion"
SCHEDULE_FILE = "schedule.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RegisteredVersion:
    """One schedule in the registry."""

    name: str
    """Of the registered model: model, sampler and steps."""
    version: int
    aliases: tuple[str, ...]
    sha256: str
    compute_share: float
    mse: float
    weights_sha256: str
    guidance: str
    protocol: str
    """How the error was measured, and on how many images."""
    run_id: str
    git_commit: str

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.name}/{self.version}"

    def beats(self, other: "RegisteredVersion") -> bool:
        """Comparable, not worse in compute share nor in error, and better in one of them."""
        return self.shortfall(other) is None

    def shortfall(self, other: "RegisteredVersion") -> str | None:
        """Why this one does not beat the other; None where it does."""
        for condition in ("weights_sha256", "guidance", "protocol"):
            mine, theirs = getattr(self, condition), getattr(other, condition)
            if mine != theirs:
                return f"its {condition} is {mine}, version {other.version}'s is {theirs}, so they do not compare"
        if (self.compute_share, self.mse) == (other.compute_share, other.mse):
            return f"version {other.version} has the same {other._cost_and_error()}"
        if self.compute_share > other.compute_share or self.mse > other.mse:
            return f"it has {self._cost_and_error()}, version {other.version} has {other._cost_and_error()}"
        return None

    def _cost_and_error(self) -> str:
        return f"compute share {self.compute_share:.4g} and error {self.mse:.4g}"


def model_name(model: ModelIdentity, sampler: str, steps: int) -> str:
    """The registered model whose versions are the schedules for these, for instance `digits-dit-ddim-20`.

    Weights other than those in the package make it another model, so a short hash of them is part of its name then:
    `digits-dit-1a2b3c4d-ddim-20`.
    """
    sha256 = model.weights_sha256
    weights = "" if sha256 in (None, _embedded_sha256(model.name)) else f"-{sha256[:8]}"
    return f"{model.name}{weights}-{sampler}-{steps}"


@server_errors()
def register(
    client: MlflowClient,
    schedule: Schedule,
    run_id: str,
    image_shape: tuple[int, int, int],
    tags: Mapping[str, str],
    *,
    worth_serving: bool,
) -> RegisteredVersion:
    """Makes a version of a measured schedule, and the champion if it is worth serving and beats the one there is.

    The same schedule is the same version, however often it is registered. Why a version does not become champion
    is said in the log.

    Args:
        worth_serving: it has less error than the sampler with fewer steps at the same compute.

    Raises:
        RegistryError: the schedule's error has not been measured.
        UnreachableError: the registry does not answer.
    """
    quality = schedule.quality
    if quality is None or "mse" not in quality.metrics:
        raise RegistryError("quality", "the schedule's error was not measured", "measure it before registering it")
    name = model_name(schedule.model, schedule.sampler.name, schedule.sampler.steps)
    with unless_there():
        client.create_registered_model(name, description="Caching schedules, one version each")
    found = client.search_model_versions(f"name = '{name}' and tags.sha256 = '{schedule.sha256}'")
    known, _ = _read_all(client, found)
    registered = known[0] if known else _create(client, schedule, quality, name, run_id, image_shape, tags)
    obstacle = _promote(client, registered) if worth_serving else "fewer steps at the same compute do as well"
    if obstacle and CHAMPION not in registered.aliases:
        _log.warning("%s version %d does not become %s: %s", name, registered.version, CHAMPION, obstacle)
    return get_version(client, name, registered.version)


@server_errors()
def list_versions(client: MlflowClient) -> list[RegisteredVersion]:
    """All schedules, by name and newest first. What else there is in the registry is left out, with a line in the log.

    Raises:
        UnreachableError: the registry does not answer.
    """
    versions, others = _read_all(client, client.search_model_versions())
    if others:
        _log.warning("left out %d versions that are no schedules, for instance %s", len(others), others[0])
    return sorted(versions, key=lambda version: (version.name, -version.version))


@server_errors()
def get_version(client: MlflowClient, name: str, version: int) -> RegisteredVersion:
    """The version of this number.

    Raises:
        RegistryError: there is no such version, or it is not a schedule.
        UnreachableError: the registry does not answer.
    """
    found = _find(lambda: client.get_model_version(name, str(version)))
    if found is None:
        raise _missing(f"models:/{name}/{version}")
    return _read(client, found)


@server_errors()
def resolve(client: MlflowClient, name: str, alias: str) -> RegisteredVersion:
    """The version that has the alias.

    Raises:
        RegistryError: no such model, none of its versions has the alias, or the one that has it is not a schedule.
        UnreachableError: the registry does not answer.
    """
    found = _find(lambda: client.get_model_version_by_alias(name, alias))
    if found is None:
        raise _missing(f"{name}@{alias}")
    return _read(client, found)


def load_schedule(version: RegisteredVersion) -> Schedule:
    """The schedule of a version, checked against the hash that it was registered with.

    Raises:
        RegistryError: the artifact cannot be fetched or is another schedule.
        ScheduleError: its file is corrupt.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            local = mlflow.artifacts.download_artifacts(version.uri, dst_path=folder)
            text = read_text(Path(local, "data", SCHEDULE_FILE))
        except Exception as error:
            # An artifact store raises whatever its client library does.
            problem = f"cannot be fetched ({reason(error)})"
            raise RegistryError(version.uri, problem, "check the artifact storage") from error
        schedule = Schedule.from_json(text, source=version.uri)
    if schedule.sha256 != version.sha256:
        raise RegistryError(version.uri, "its file is another schedule than was registered", "register it again")
    return schedule


@cache
def _embedded_sha256(model: str) -> str | None:
    """Of the weights that ship in the package; None for a model that ships without."""
    weights = zoo.embedded(model) / WEIGHTS
    return sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None


def _create(
    client: MlflowClient,
    schedule: Schedule,
    quality: Quality,
    name: str,
    run_id: str,
    image_shape: tuple[int, int, int],
    tags: Mapping[str, str],
) -> RegisteredVersion:
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id=run_id):
        path = Path(folder, SCHEDULE_FILE)
        path.write_text(schedule.to_json())
        logged = mlflow.pyfunc.log_model(
            name="schedule",
            loader_module="l2c_ray.registry.pyfunc",
            data_path=str(path),
            model_config=MODEL_CONFIG,
            signature=signature(image_shape),
            input_example=pd.DataFrame({"label": [3], "seed": [7]}),
            pip_requirements=[f"l2c_ray=={installed_version('l2c_ray')}"],
        )
    described = {f"metric.{metric}": repr(value) for metric, value in quality.metrics.items()} | {
        "sha256": schedule.sha256,
        "compute_share": repr(schedule.compute_share),
        "weights_sha256": schedule.model.weights_sha256 or "any",
        "guidance": str(schedule.sampler.guidance),
        "protocol": quality.protocol,
        "git_commit": schedule.provenance.git_commit or "unknown",
    }
    described |= tags
    # A server takes the model as a source only together with its id.
    created = client.create_model_version(name, logged.model_uri, run_id, tags=described, model_id=logged.model_id)
    return _read(client, created)


def _promote(client: MlflowClient, candidate: RegisteredVersion) -> str | None:
    """Makes the candidate champion, or says what stands in its way."""
    set_alias = partial(client.set_registered_model_alias, candidate.name, CHAMPION, str(candidate.version))
    obstacle = _obstacle(client, candidate)
    if obstacle is None:
        try:
            set_alias()
        except MlflowException:
            # MLflow fails where another process gives the alias for the first time just now; then the two compare.
            obstacle = _obstacle(client, candidate)
            if obstacle is None:
                set_alias()
    return obstacle


def _obstacle(client: MlflowClient, candidate: RegisteredVersion) -> str | None:
    """What keeps the candidate from being champion; None where nothing does."""
    found = _find(lambda: client.get_model_version_by_alias(candidate.name, CHAMPION))
    try:
        return candidate.shortfall(_read(client, found)) if found else None
    except RegistryError as error:
        return str(error)


def _find(look: Callable[[], ModelVersion]) -> ModelVersion | None:
    try:
        return look()
    except MlflowException as error:
        # MLflow has one code for a missing model and another for a missing alias; anything else is no answer at all.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _missing(subject: str) -> RegistryError:
    return RegistryError(subject, "is not in the registry", "learn a schedule first, or see l2c registry list")


def _read_all(client: MlflowClient, found: Iterable[ModelVersion]) -> tuple[list[RegisteredVersion], list[str]]:
    """The schedules among them, and what the others are."""
    versions, others = [], []
    for version in found:
        try:
            versions.append(_read(client, version))
        except RegistryError as error:
            others.append(str(error))
    return versions, others


def _read(client: MlflowClient, found: ModelVersion) -> RegisteredVersion:
    """The version that MLflow found.

    Raises:
        RegistryError: it lacks the tags of a schedule.
    """
    tags: Mapping[str, str] = found.tags
    try:
        version = RegisteredVersion(
            name=found.name,
            version=int(found.version),
            aliases=(),
            sha256=tags["sha256"],
            compute_share=float(tags["compute_share"]),
            mse=float(tags["metric.mse"]),
            weights_sha256=tags["weights_sha256"],
            guidance=tags["guidance"],
            protocol=tags["protocol"],
            run_id=found.run_id or "",
            git_commit=tags["git_commit"],
        )
    except (KeyError, ValueError) as error:
        problem = f"it has no tag {error}" if isinstance(error, KeyError) else str(error)
        subject = f"models:/{found.name}/{found.version}"
        raise RegistryError(subject, f"is not a schedule ({problem})", "name a version that l2c learn made") from error
    # A search leaves the aliases out.
    whole: Any = client.get_model_version(version.name, str(version.version))
    return replace(version, aliases=tuple(sorted(whole.aliases)))
