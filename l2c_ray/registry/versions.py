"""Schedules as versions of registered models, and the alias that serving follows."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from l2c_ray.errors import RegistryError, StorageError, UnreachableError
from l2c_ray.registry.pyfunc import signature
from l2c_ray.schedule import Schedule
from l2c_ray.storage.files import read_text

CHAMPION = "champion"
SCHEDULE_FILE = "schedule.json"


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
    run_id: str
    git_commit: str

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.name}/{self.version}"

    def beats(self, other: "RegisteredVersion") -> bool:
        """Not worse in compute share nor in error, and better in one of them."""
        mine, theirs = (self.compute_share, self.mse), (other.compute_share, other.mse)
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def model_name(model: str, sampler: str, steps: int) -> str:
    """The registered model whose versions are the schedules for these, for instance `digits-dit-ddim-20`."""
    return f"{model}-{sampler}-{steps}"


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

    The same schedule is the same version, however often it is registered.

    Raises:
        RegistryError: the schedule's error has not been measured.
    """
    if schedule.quality is None or "mse" not in schedule.quality.metrics:
        raise RegistryError("quality", "the schedule's error was not measured", "measure it before registering it")
    name = model_name(schedule.model.name, schedule.sampler.name, schedule.sampler.steps)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description="Caching schedules, one version each")
    known = [version for version in list_versions(client, name) if version.sha256 == schedule.sha256]
    registered = known[0] if known else _create(client, schedule, name, run_id, image_shape, tags)
    champion = _holder(client, name, CHAMPION)
    if worth_serving and (champion is None or registered.beats(champion)):
        client.set_registered_model_alias(name, CHAMPION, str(registered.version))
    return get_version(client, name, registered.version)


def list_versions(client: MlflowClient, name: str | None = None) -> list[RegisteredVersion]:
    """All schedules, or those of one registered model, newest first."""
    found = client.search_model_versions(f"name = '{name}'" if name else None)
    versions = [_read(client, version) for version in found if "sha256" in version.tags]
    return sorted(versions, key=lambda version: (version.name, -version.version))


def get_version(client: MlflowClient, name: str, version: int) -> RegisteredVersion:
    return _read(client, client.get_model_version(name, str(version)))


def resolve(client: MlflowClient, name: str, alias: str) -> RegisteredVersion:
    """The version that has the alias.

    Raises:
        RegistryError: no such model, or none of its versions has the alias.
        UnreachableError: the registry does not answer.
    """
    version = _holder(client, name, alias)
    if version is None:
        raise RegistryError(
            f"{name}@{alias}", "is not in the registry", "learn a schedule first, or see l2c registry list"
        )
    return version


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
        except (MlflowException, OSError, StorageError) as error:
            raise RegistryError(version.uri, f"cannot be fetched ({error})", "check the artifact storage") from error
        schedule = Schedule.from_json(text, source=version.uri)
    if schedule.sha256 != version.sha256:
        raise RegistryError(version.uri, "its file is another schedule than was registered", "register it again")
    return schedule


def _create(
    client: MlflowClient,
    schedule: Schedule,
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
            signature=signature(image_shape),
            input_example=pd.DataFrame({"label": [3], "seed": [7]}),
            pip_requirements=[f"l2c_ray=={installed_version('l2c_ray')}"],
        )
    metrics = schedule.quality.metrics if schedule.quality else {}
    described = {f"metric.{metric}": repr(value) for metric, value in metrics.items()}
    described |= {"sha256": schedule.sha256, "compute_share": repr(schedule.compute_share)}
    described |= {"git_commit": schedule.provenance.git_commit or "unknown"} | dict(tags)
    created = client.create_model_version(name, logged.model_uri, run_id, tags=described)
    return _read(client, created)


def _holder(client: MlflowClient, name: str, alias: str) -> RegisteredVersion | None:
    try:
        return _read(client, client.get_model_version_by_alias(name, alias))
    except MlflowException as error:
        # MLflow has one code for a missing model and another for a missing alias; anything else is no answer at all.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise UnreachableError(f"{name}@{alias}", f"the registry does not answer ({error})", "try again") from error


def _read(client: MlflowClient, found: ModelVersion) -> RegisteredVersion:
    # A search leaves the aliases out.
    whole: Any = client.get_model_version(found.name, str(found.version))
    return RegisteredVersion(
        name=whole.name,
        version=int(whole.version),
        aliases=tuple(sorted(whole.aliases)),
        sha256=whole.tags["sha256"],
        compute_share=float(whole.tags["compute_share"]),
        mse=float(whole.tags["metric.mse"]),
        run_id=whole.run_id or "",
        git_commit=whole.tags["git_commit"],
    )
