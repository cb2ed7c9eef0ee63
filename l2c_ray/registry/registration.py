"""Registration of a measured schedule as a version, with its lineage, metrics and images."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from l2c_ray.errors import ConflictError, RegistryError
from l2c_ray.logs import logger
from l2c_ray.registry.aliases import history, move_alias
from l2c_ray.registry.audit import withdrawn
from l2c_ray.registry.lineage import Lineage
from l2c_ray.registry.mutex import exclusive
from l2c_ray.registry.tracking import server_errors, unless_there
from l2c_ray.registry.versions import (
    CHAMPION,
    SCHEDULE_FILE,
    RegisteredVersion,
    get_version,
    holder_of,
    model_name,
    read,
    read_all,
    require_ours,
)
from l2c_ray.schedule import Quality, Schedule

if TYPE_CHECKING:
    from mlflow import MlflowClient

CONFIG_FILE = "config.json"
HEATMAP_FILE = "heatmap.png"
SAMPLES_FILE = "samples.png"

_log = logger(__name__)


class Registration(BaseModel):
    """Everything that a version is made from."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    schedule: Schedule
    lineage: Lineage
    image_shape: tuple[int, int, int]
    metrics: dict[str, float]
    """Measurements beside the schedule's own quality, for instance `speedup`."""
    samples: bytes | None
    """PNG with images of the baseline above the schedule's (`evaluation.plots.plot_samples`); None for a model without
    images."""
    worth_serving: bool
    """Whether it has less error than the sampler with fewer steps at the same compute."""
    chosen: bool = False
    """Whether it was selected among several by this measurement, so that it must be confirmed on other images before it
    gets an alias."""


@server_errors()
def register(client: MlflowClient, asked: Registration) -> RegisteredVersion:
    """Registers a measured schedule, and makes it champion if it is worth serving and beats the current one.

    Idempotent: the same schedule is the same version. The log says why a version does not become champion; one that
    was selected by its measurement, or was champion and rolled back, is left to the gate.

    Raises:
        RegistryError: the schedule's error was not measured, or another program uses its name.
        UnreachableError: the registry does not answer.
    """
    schedule = asked.schedule
    quality = schedule.quality
    if quality is None or "mse" not in quality.metrics:
        raise RegistryError("quality", "the schedule's error was not measured", "measure it before registering it")
    name = model_name(schedule.model, schedule.sampler.name, schedule.sampler.steps)
    require_ours(client, name)
    with unless_there():
        client.create_registered_model(name, description="Caching schedules, one version each")
    registered = _known(client, name, schedule) or _create(client, name, asked, _tags(asked, quality))
    if asked.chosen:
        return get_version(client, name, registered.version)
    obstacle: str | None = "fewer steps at the same compute do as well"
    if asked.worth_serving:
        obstacle = _make_champion(client, registered)
    if obstacle and CHAMPION not in registered.aliases:
        _log.warning("%s version %d does not become %s: %s", name, registered.version, CHAMPION, obstacle)
    return get_version(client, name, registered.version)


def _tags(asked: Registration, quality: Quality) -> dict[str, str]:
    schedule = asked.schedule
    measured = {f"metric.{name}": repr(float(value)) for name, value in {**asked.metrics, **quality.metrics}.items()}
    commit = schedule.provenance.git_commit or "unknown"
    described = {
        "sha256": schedule.sha256,
        "compute_share": repr(schedule.compute_share),
        "weights_sha256": schedule.model.weights_sha256 or "any",
        "guidance": str(schedule.sampler.guidance),
        "protocol": quality.protocol,
        "git_commit": commit,
        "worth_serving": str(asked.worth_serving).lower(),
    }
    return {**measured, **described, **asked.lineage.tags(commit)}


def _known(client: MlflowClient, name: str, schedule: Schedule) -> RegisteredVersion | None:
    found = client.search_model_versions(f"name = '{name}' and tags.sha256 = '{schedule.sha256}'")
    known, _ = read_all(client, found)
    return known[0] if known else None


def _create(client: MlflowClient, name: str, asked: Registration, tags: Mapping[str, str]) -> RegisteredVersion:
    """The new version, which appears when all its artifacts are there."""
    from mlflow import pyfunc, start_run

    from l2c_ray.evaluation.plots import plot_schedule
    from l2c_ray.registry.pyfunc import MODEL_CONFIG, signature

    schedule, lineage = asked.schedule, asked.lineage
    beside = {CONFIG_FILE: json.dumps(dict(lineage.config), indent=1).encode(), HEATMAP_FILE: plot_schedule(schedule)}
    if asked.samples:
        beside[SAMPLES_FILE] = asked.samples
    with (
        tempfile.TemporaryDirectory() as folder,
        start_run(run_id=lineage.run_id),
        warnings.catch_warnings(),
    ):
        path = Path(folder, SCHEDULE_FILE)
        path.write_text(schedule.to_json())
        # With an example MLflow would sample here, with weights that are not part of a version.
        warnings.filterwarnings("ignore", ".*An input example was not provided", UserWarning)
        logged = pyfunc.log_model(
            name="schedule",
            loader_module="l2c_ray.registry.pyfunc",
            data_path=str(path),
            model_config=MODEL_CONFIG,
            signature=signature(asked.image_shape),
            pip_requirements=[f"l2c_ray=={installed_version('l2c_ray')}"],
        )
    with tempfile.TemporaryDirectory() as folder:
        for file, content in beside.items():
            Path(folder, file).write_bytes(content)
        client.log_model_artifacts(logged.model_id, folder)
    with exclusive(client, name) as held:
        # Another process may have registered it meanwhile.
        if there := _known(client, name, schedule):
            return there
        held.require()
        # A server accepts the model as a source only together with its id.
        created = client.create_model_version(
            name, logged.model_uri, lineage.run_id, tags=dict(tags), model_id=logged.model_id
        )
    return read(client, created)


def _make_champion(client: MlflowClient, candidate: RegisteredVersion) -> str | None:
    """Makes the candidate champion; returns the obstacle if it cannot, else None."""
    if candidate.version in withdrawn(history(client, candidate.name)).get(CHAMPION, ()):
        return "it was rolled back; l2c registry promote gives it back where the version is named"
    while True:
        current = holder_of(client, candidate.name, CHAMPION)
        obstacle, why = None, "the first version worth serving"
        if current is not None:
            try:
                champion = get_version(client, candidate.name, current)
            except RegistryError as error:
                return str(error)
            obstacle, why = candidate.shortfall(champion), f"beats version {current}"
        if obstacle:
            return obstacle
        try:
            move_alias(client, candidate.name, CHAMPION, candidate.version, expected=current, why=why)
        except ConflictError as error:
            if holder_of(client, candidate.name, CHAMPION) == current:
                # The version exists anyway, and can be promoted later.
                return str(error)
            # Another version became champion; compare again.
        else:
            return None
