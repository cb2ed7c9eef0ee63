"""Factories for the registry: schedules with measured quality, and other weights."""

import shutil
from pathlib import Path

from mlflow import MlflowClient
from safetensors.torch import load_file, save_file
from unit_factories import GUIDANCE, cost, sampler_identity, small_schedule

from l2c_ray.models import zoo
from l2c_ray.models.layout import WEIGHTS
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.schedule import Guidance, Provenance, Quality, Schedule

NAME = "small-aaaaaaaa-ddim-3"
"""The registered model of `measured` schedules; no weights of theirs ship in the package."""
PROTOCOL = "frontier/1 images=8"


def measured(
    cached: int = 600,
    mse: float = 1e-3,
    git_commit: str | None = "f" * 40,
    guidance: Guidance = GUIDANCE,
    protocol: str = PROTOCOL,
) -> Schedule:
    """One with a compute share of `cached` / 1000."""
    return small_schedule(
        sampler=sampler_identity(guidance=guidance),
        cost=cost(cached, full=1000),
        quality=Quality(protocol=protocol, metrics={"mse": mse, "psnr": 30.0}),
        provenance=Provenance(policy="learned", settings={"seed": 0}, git_commit=git_commit),
    )


def add_foreign(client: MlflowClient, run: TrackedRun, name: str, **tags: str) -> int:
    """A version that somebody else made; its number."""
    return int(client.create_model_version(name, "runs:/none", run.id, tags=tags).version)


def retrained_digits(folder: Path) -> Path:
    """The folder, which has the digits model in it with other weights."""
    shutil.copytree(zoo.embedded("digits-dit"), folder)
    tensors = load_file(folder / WEIGHTS)
    save_file({name: tensor * 0.5 for name, tensor in tensors.items()}, folder / WEIGHTS)
    return folder
