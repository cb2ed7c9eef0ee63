"""Settings of the Ray Serve application, given as `args` in its YAML config."""

from typing import Annotated

from pydantic import Field, field_validator

from l2c_ray.config.base import Folder, JobConfig
from l2c_ray.schedule import MOST_STEPS

FULL = "full"
"""What requests call the model that computes everything."""


class ServingConfig(JobConfig):
    """What is served: a model under the schedule that holds an alias of the registry."""

    model: Annotated[str, Field(min_length=1)]
    checkpoint: Folder | None = None
    """A folder in diffusers' layout, in place of the weights that ship in the package."""
    sampler: Annotated[str, Field(min_length=1)] = "ddim"
    steps: Annotated[int, Field(ge=2, le=MOST_STEPS)] = 20
    alias: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,255}$")] = "champion"
    refresh_seconds: Annotated[float, Field(gt=0)] = 10.0
    """How often the alias is looked up again, so that a promotion needs no new deployment."""
    max_images: Annotated[int, Field(ge=1)] = 64
    """The most images of one request."""
    replicas: Annotated[int, Field(ge=1)] = 1
    cpus_per_replica: Annotated[float, Field(ge=0)] = 1.0
    gpus_per_replica: Annotated[float, Field(ge=0)] = 0.0

    @field_validator("alias")
    @classmethod
    def _is_not_that_of_the_full_run(cls, alias: str) -> str:
        if alias == FULL:
            raise ValueError(f"{FULL} is what requests call the run without a schedule")
        return alias
