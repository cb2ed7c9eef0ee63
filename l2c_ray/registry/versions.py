"""Registered versions of schedules, and the ways to look them up."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from l2c_ray.errors import IntegrityError, RegistryError
from l2c_ray.logs import logger
from l2c_ray.models import zoo
from l2c_ray.models.layout import WEIGHTS
from l2c_ray.registry.tracking import reason, server_errors
from l2c_ray.schedule import ModelIdentity, Schedule
from l2c_ray.storage.files import read_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
SCHEDULE_FILE = "schedule.json"

_Found = TypeVar("_Found")

_log = logger(__name__)


@dataclass(frozen=True)
class RegisteredVersion:
    """One schedule in the registry."""

    name: str
    """Name of the registered model: model, sampler and steps."""
    version: int
    aliases: tuple[str, ...]
    sha256: str
    compute_share: float
    mse: float
    weights_sha256: str
    guidance: str
    protocol: str
    """Measurement of the error, with the number of images."""
    run_id: str
    git_commit: str
    worth_serving: bool
    """Whether it has less error than the sampler with fewer steps at the same compute."""

    @property
    def uri(self) -> str:
        """Address for `mlflow.pyfunc.load_model`."""
        return f"models:/{self.name}/{self.version}"

    def beats(self, other: RegisteredVersion) -> bool:
        """Whether it is comparable, not worse in compute share and error, and better in one of them."""
        return self.shortfall(other) is None

    def shortfall(self, other: RegisteredVersion) -> str | None:
        """Reason why this version does not beat the other; None if it does."""
        if difference := self.differs_in(other):
            return f"{difference}, so they do not compare"
        if (self.compute_share, self.mse) == (other.compute_share, other.mse):
            return f"version {other.version} has the same {other._cost_and_error()}"
        if self.compute_share > other.compute_share or self.mse > other.mse:
            return f"it has {self._cost_and_error()}, version {other.version} has {other._cost_and_error()}"
        return None

    def differs_in(self, other: RegisteredVersion) -> str | None:
        """Reason why the two are not comparable; None if both were measured alike, with the same weights."""
        for condition in ("weights_sha256", "guidance", "protocol"):
            mine, theirs = getattr(self, condition), getattr(other, condition)
            if mine != theirs:
                return f"its {condition} is {mine}, version {other.version}'s is {theirs}"
        return None

    def _cost_and_error(self) -> str:
        return f"compute share {self.compute_share:.4g} and error {self.mse:.4g}"


def model_name(model: ModelIdentity, sampler: str, steps: int) -> str:
    """Name of the registered model for these schedules, for instance `digits-dit-ddim-20`.

    Weights other than those in the package are part of the name by a short hash: `digits-dit-1a2b3c4d-ddim-20`.
    """
    sha256 = model.weights_sha256
    weights = "" if sha256 in (None, _embedded_sha256(model.name)) else f"-{sha256[:8]}"
    return f"{model.name}{weights}-{sampler}-{steps}"


@server_errors()
def list_versions(client: MlflowClient) -> list[RegisteredVersion]:
    """All schedules, sorted by name, the newest first; versions of other kinds are logged and left out.

    Raises:
        UnreachableError: the registry does not answer.
    """
    versions, others = read_all(client, client.search_model_versions())
    if others:
        _log.warning("left out %d versions that are no schedules, for instance %s", len(others), others[0])
    return sorted(versions, key=lambda version: (version.name, -version.version))


@server_errors()
def require_ours(client: MlflowClient, name: str) -> None:
    """Refuses a name under which another program keeps something.

    Raises:
        RegistryError: it is a prompt, or a registered model without a schedule among its versions.
        UnreachableError: the registry does not answer.
    """
    remedy = "rename it there, or set MLFLOW_TRACKING_URI to another registry"
    if client.get_prompt(name) is not None:
        raise RegistryError(name, "is a prompt in the registry, so no schedules can have the name", remedy)
    versions = client.search_model_versions(f"name = '{name}'")
    if versions and not any("sha256" in version.tags for version in versions):
        raise RegistryError(
            name, "is another program's model in the registry: none of its versions is a schedule", remedy
        )


@server_errors()
def get_version(client: MlflowClient, name: str, version: int) -> RegisteredVersion:
    """The version with this number.

    Raises:
        RegistryError: there is no such version, or it is not a schedule.
        UnreachableError: the registry does not answer.
    """
    found = find(lambda: client.get_model_version(name, str(version)))
    if found is None:
        raise missing(f"models:/{name}/{version}")
    return read(client, found)


@server_errors()
def resolve(client: MlflowClient, name: str, alias: str) -> RegisteredVersion:
    """The version that has the alias.

    Raises:
        RegistryError: there is no such model or alias, or its version is not a schedule.
        UnreachableError: the registry does not answer.
    """
    found = find(lambda: client.get_model_version_by_alias(name, alias))
    if found is None:
        raise missing(f"{name}@{alias}")
    return read(client, found)


@server_errors()
def versions_of(client: MlflowClient, name: str) -> list[RegisteredVersion]:
    """All schedules of one registered model, the oldest first; none if there is no such model.

    Raises:
        UnreachableError: the registry does not answer.
    """
    versions, _ = read_all(client, client.search_model_versions(f"name = '{name}'"))
    return sorted(versions, key=lambda version: version.version)


class Reference(NamedTuple):
    """Parts of `NAME@ALIAS` or `NAME/VERSION`; either alias or version is None."""

    name: str
    alias: str | None
    version: int | None


def parse_reference(text: str) -> Reference:
    """The parts of a reference.

    Raises:
        RegistryError: it has neither form.
    """
    # Databases have 32 bits for a version's number.
    written = re.fullmatch(r"(?:models:/)?([\w.-]+)(?:@([\w-]+)|/(\d{1,9}))", text, re.ASCII)
    if not written:
        raise RegistryError(text, "is no version", "write NAME@ALIAS or NAME/VERSION")
    name, alias, version = written.groups()
    return Reference(name, alias, int(version) if version else None)


def look_up(client: MlflowClient, reference: str) -> RegisteredVersion:
    """The version that `NAME@ALIAS` or `NAME/VERSION` stands for.

    Raises:
        RegistryError: it has neither form, or there is no such version.
        UnreachableError: the registry does not answer.
    """
    name, alias, version = parse_reference(reference)
    if alias:
        return resolve(client, name, alias)
    return get_version(client, name, cast(int, version))


@server_errors()
def holder_of(client: MlflowClient, name: str, alias: str) -> int | None:
    """Number of the version with the alias, schedule or not; None if there is none.

    Raises:
        UnreachableError: the registry does not answer.
    """
    found = find(lambda: client.get_model_version_by_alias(name, alias))
    return int(found.version) if found else None


def load_schedule(version: RegisteredVersion) -> Schedule:
    """The schedule of a version, compared with its registered hash.

    Raises:
        RegistryError: the artifact cannot be fetched.
        IntegrityError: it is another schedule.
        ScheduleError: its file is corrupt.
    """
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory() as folder:
        try:
            local = download_artifacts(version.uri, dst_path=folder)
            text = read_text(Path(local, "data", SCHEDULE_FILE))
        except Exception as error:
            # Artifact stores raise errors of many client libraries.
            problem = f"cannot be fetched ({reason(error)})"
            raise RegistryError(version.uri, problem, "check the artifact storage") from error
        schedule = Schedule.from_json(text, source=version.uri)
    if schedule.sha256 != version.sha256:
        raise IntegrityError(version.uri, "its file is another schedule than was registered", "register it again")
    return schedule


@cache
def _embedded_sha256(model: str) -> str | None:
    """Hash of the weights in the package; None for a model without embedded weights."""
    weights = zoo.embedded(model) / WEIGHTS
    return sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None


def find(look: Callable[[], _Found]) -> _Found | None:
    """Result of a look-up in MLflow; None if there is no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return look()
    except MlflowException as error:
        # MLflow has one code for a missing model and another for a missing alias.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def missing(subject: str) -> RegistryError:
    """Error for a model, version or alias that is not there."""
    return RegistryError(subject, "is not in the registry", "learn a schedule first, or see l2c registry list")


def read_all(client: MlflowClient, found: Iterable[ModelVersion]) -> tuple[list[RegisteredVersion], list[str]]:
    """The schedules among the versions, and reasons why the others are none."""
    versions, others = [], []
    for version in found:
        try:
            versions.append(read(client, version))
        except RegistryError as error:
            others.append(str(error))
    return versions, others


def read(client: MlflowClient, found: ModelVersion) -> RegisteredVersion:
    """The version in this package's form.

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
            compute_share=_finite(tags, "compute_share"),
            mse=_finite(tags, "metric.mse"),
            weights_sha256=tags["weights_sha256"],
            guidance=tags["guidance"],
            protocol=tags["protocol"],
            run_id=found.run_id or "",
            git_commit=tags["git_commit"],
            worth_serving=tags.get("worth_serving") == "true",
        )
    except (KeyError, ValueError) as error:
        problem = f"it has no tag {error}" if isinstance(error, KeyError) else str(error)
        subject = f"models:/{found.name}/{found.version}"
        raise RegistryError(subject, f"is not a schedule ({problem})", "name a version that l2c learn made") from error
    # Results of a search have no aliases.
    whole: Any = client.get_model_version(version.name, str(version.version))
    return replace(version, aliases=tuple(sorted(whole.aliases)))


def _finite(tags: Mapping[str, str], key: str) -> float:
    """Value of a tag; raises KeyError or ValueError if it is missing or not finite, as NaN cannot be compared."""
    value = float(tags[key])
    if not math.isfinite(value):
        raise ValueError(f"its tag {key} is {value}")
    return value
