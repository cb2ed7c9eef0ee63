"""Settings of jobs/pretrain.py."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from l2c_ray.config.base import JobConfig
from l2c_ray.schedule import Name


class PretrainingConfig(JobConfig):
    """A small transformer and how it is trained."""

    name: Name
    """As in the zoo, which reads the finished model back."""
    family: Literal["dit", "uvit"] = "dit"
    seed: Annotated[int, Field(ge=0, le=2**40)] = 0
    depth: Annotated[int, Field(ge=1)]
    heads: Annotated[int, Field(ge=1)]
    head_dim: Annotated[int, Field(ge=1)]
    patch_size: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1, le=10**6)]
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    """Steps between two checkpoints that a resumed run can go on from."""

    @model_validator(mode="after")
    def _has_room_for_the_positions(self) -> Self:
        # A sine and a cosine for each of two axes.
        if (width := self.heads * self.head_dim) % 4:
            raise ValueError(f"heads x head_dim must be a multiple of 4, and is {width}")
        return self

    @model_validator(mode="after")
    def _has_an_out_block_for_every_in_block(self) -> Self:
        if self.family == "uvit" and self.depth % 2:
            raise ValueError(f"depth must be even for a uvit, whose middle block is not counted, and is {self.depth}")
        return self

    @model_validator(mode="after")
    def _warms_up_before_the_end(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError("warmup_steps must be less than steps")
        return self
