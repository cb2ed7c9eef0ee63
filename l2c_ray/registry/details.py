"""Details of one version: lineage, metrics, verdicts of gates, and moves of aliases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from l2c_ray.registry.aliases import history
from l2c_ray.registry.audit import AliasMove, utc_now, who_am_i
from l2c_ray.registry.lineage import PREFIX as LINEAGE
from l2c_ray.registry.records import readable
from l2c_ray.registry.tracking import server_errors
from l2c_ray.registry.versions import RegisteredVersion

if TYPE_CHECKING:
    from mlflow import MlflowClient

_METRIC = "metric."
_GATE = "gate."


class _Check(BaseModel):
    """One check of a gate: the fields that people are shown, and others."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str
    passed: bool
    finding: str


class _Verdict(BaseModel):
    """A gate's verdict: the fields that people are shown, and others."""

    model_config = ConfigDict(extra="allow", strict=True)

    passed: bool
    when: str
    checks: list[_Check]


@dataclass(frozen=True)
class VersionDetails:
    """One version with everything that the registry records about it."""

    version: RegisteredVersion
    lineage: dict[str, str]
    metrics: dict[str, float]
    gates: dict[str, Any]
    """Last verdict on the version, by alias."""
    moves: list[AliasMove]
    """Moves of aliases to the version or away from it, the oldest first."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@server_errors()
def details(client: MlflowClient, version: RegisteredVersion) -> VersionDetails:
    """The details of a version, from the registry.

    Raises:
        RegistryError: the version is gone.
        UnreachableError: the registry does not answer.
    """
    tags: Mapping[str, str] = client.get_model_version(version.name, str(version.version)).tags
    moves = history(client, version.name)
    return VersionDetails(
        version=version,
        lineage=readable(version.uri, tags, LINEAGE, lambda _, value: value),
        metrics=readable(version.uri, tags, _METRIC, lambda _, value: float(value)),
        gates=readable(version.uri, tags, _GATE, lambda _, value: _Verdict.model_validate_json(value).model_dump()),
        moves=[move for move in moves if version.version in (move.before, move.after)],
    )


@server_errors()
def record_verdict(
    client: MlflowClient, version: RegisteredVersion, alias: str, *, passed: bool, content: Mapping[str, Any]
) -> None:
    """Records a gate's verdict on a version as a tag, in place of an earlier one for the same alias.

    Raises:
        UnreachableError: the registry does not answer.
    """
    verdict = {"passed": passed, "when": utc_now(), "who": who_am_i(), **content}
    client.set_model_version_tag(version.name, str(version.version), _GATE + alias, json.dumps(verdict))
