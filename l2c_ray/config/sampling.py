"""Settings of the workers that sample images."""

from typing import Annotated

from pydantic import Field

from l2c_ray.config.base import Section
from l2c_ray.config.learn import ClusterSection, ModelSection, SamplerSection


class SamplingConfig(Section):
    """Model, sampler and workers of a measurement."""

    model: ModelSection
    sampler: SamplerSection
    cluster: ClusterSection
    batch_size: Annotated[int, Field(ge=1)]
    """Images that a worker samples at a time."""
