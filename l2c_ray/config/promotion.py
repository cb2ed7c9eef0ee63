"""Settings of jobs/promote.py and `l2c registry promote`: which alias moves, and what the gate asks."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from l2c_ray.config.base import ONE_OR_MORE, Folder, JobConfig, Section
from l2c_ray.config.learn import ClusterSection
from l2c_ray.schedule import Name


def _no_word_of_mlflow(alias: str) -> str:
    if re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise ValueError("is a name that MLflow keeps for itself")
    return alias


_LEAST_CHUNKS = 4
"""An interval of the speed is made of them."""

Alias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$"), AfterValidator(_no_word_of_mlflow)]


class PromotionSection(Section):
    """Which version gets which alias."""

    name: Name
    """Name of the registered model, for instance `digits-dit-ddim-20`."""
    version: Annotated[int, Field(ge=1, lt=10**9)] | None = None
    """Unless given, each alias goes to the version that the rule of the tiers chooses."""
    alias: Annotated[tuple[Alias, ...], *ONE_OR_MORE] = (
        "quality",
        "balanced",
        "fast",
        "champion",
    )
    """One or several; a single one stands for a list of one."""
    why: Annotated[str, Field(min_length=1, max_length=500)]
    """Reason that the history of the alias keeps."""
    checkpoint: Folder | None = None
    """A folder in diffusers' layout, in place of the weights that ship in the package."""

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        if len(set(self.alias)) < len(self.alias):
            raise ValueError("takes each alias but once")
        return self


class GateSection(Section):
    """Limits that a version must keep on images that it was not chosen by."""

    images: Annotated[int, Field(ge=_LEAST_CHUNKS)] = 256
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Images that a worker samples at a time, at most. A candidate's time is compared by the chunk of all workers'
    batches, of which there are at least four."""
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    """Seed of the images and of the bootstrap; every version gets images of its own all the same."""
    max_error: Annotated[float, Field(gt=0)] | None = None
    """Mean squared error to the baseline's images; unless given, that of fewer steps at the same compute."""
    max_distance: Annotated[float, Field(gt=0)] | None = None
    """Fréchet distance to the baseline's images, in the digit classifier; unless given, likewise."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Level of the confidence intervals, whose upper ends must be under the limits."""
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Number of resamples in the bootstrap."""


class PromotionConfig(JobConfig):
    """Everything that determines a promotion."""

    promotion: PromotionSection
    gate: GateSection = GateSection()
    cluster: ClusterSection = ClusterSection()

    @property
    def chunk(self) -> int:
        """Images that each candidate makes before it is the next one's turn."""
        most = self.gate.images // _LEAST_CHUNKS
        return min(self.gate.batch_size * self.cluster.workers, most)
