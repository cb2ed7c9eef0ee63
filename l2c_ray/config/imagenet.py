"""Settings of jobs/generate.py and `l2c imagenet generate`, and what its images say of how they were made."""

from typing import Annotated, Literal

from pydantic import Field

from l2c_ray.config.base import Destination, Folder, JobConfig, Section
from l2c_ray.config.learn import ClusterSection, ModelSection, SamplerSection
from l2c_ray.schedule import Name, Sha256


class ImageModelSection(ModelSection):
    """Which model makes the images."""

    vae: Folder | None = None
    """A folder with diffusers' AutoencoderKL, for a model of latents."""


class ImagesSection(Section):
    """Which images are made, and where to.

    Image i has label i mod the number of classes and seed first_seed + i. So all classes have the same number of
    images; the DiT authors draw labels at random.
    """

    storage: Destination
    """A folder that every node sees, or s3://bucket/prefix; a run with the same settings goes on with what is there."""
    count: Annotated[int, Field(ge=1)] = 50000
    shard_size: Annotated[int, Field(ge=1)] = 500
    """Images per object, which is written when all of them are made."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Images that a worker samples at a time."""
    first_seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    schedule: Folder | None = None
    """The file of the schedule to sample with; without one everything is computed."""


class GenerationConfig(JobConfig):
    """Everything that determines a set of generated images."""

    model: ImageModelSection
    sampler: SamplerSection = SamplerSection()
    images: ImagesSection
    cluster: ClusterSection = ClusterSection()


class ShardSettings(Section):
    """How the images at one address were made; they are all made alike."""

    format: Literal["l2c-images/1"] = "l2c-images/1"
    images: Annotated[int, Field(ge=1)]
    shard_size: Annotated[int, Field(ge=1)]
    first_seed: int
    model: Name
    weights_sha256: Sha256 | None
    vae_sha256: Sha256 | None
    sampler: Name
    steps: int
    timesteps_sha256: Sha256
    """Hash of the solver's timesteps, which follow from the number of steps and the model's noise schedule."""
    guidance: str
    schedule_sha256: Sha256 | None
    """None where everything was computed."""
