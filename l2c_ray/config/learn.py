"""Settings of jobs/learn.py and `l2c learn`."""

from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, model_validator

from l2c_ray.config.base import ONE_OR_MORE, Destination, Folder, JobConfig, Place, Section
from l2c_ray.config.profile import ProfileFile
from l2c_ray.schedule import MOST_GUIDANCE, MOST_STEPS, Guidance, GuidanceRule, Name


class RunSection(Section):
    """What the run is called and where it keeps its checkpoints."""

    name: Name | None = None
    """A run of the same name goes on from its last checkpoint; without a name every run is a new one."""
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    experiment: Name = "l2c"
    """The MLflow experiment."""
    storage: Destination | None = None
    """Where all runs' checkpoints go: a folder that every node sees, or s3://bucket/prefix.

    Unless given it is `$L2C_STORAGE`, or without that `$L2C_HOME/runs`.
    """


class ModelSection(Section):
    """Which model a schedule is learned for."""

    name: Annotated[str, Field(min_length=1)]
    checkpoint: Folder | None = None
    """A folder in diffusers' layout, in place of the weights that ship in the package."""


class SamplerSection(Section):
    """Which trajectory a schedule is learned for."""

    name: Annotated[str, Field(min_length=1)] = "ddim"
    steps: Annotated[int, Field(ge=2, le=MOST_STEPS)] = 20
    guidance_scale: Annotated[float, Field(ge=0, le=MOST_GUIDANCE)] = 1.5
    guidance_rule: GuidanceRule = "standard"
    """See `l2c_ray.schedule.Guidance`."""

    @property
    def guidance(self) -> Guidance:
        return Guidance(scale=self.guidance_scale, rule=self.guidance_rule)


_Shares = tuple[Annotated[float, Field(gt=0, le=1)], ...]


class RouterSection(Section):
    """What the router is to learn: the paper's loss with `lambda`, or the best trajectory within one of the limits."""

    sparsity_weight: Annotated[Annotated[float, Field(ge=0)] | None, Field(alias="lambda")] = None
    """Lambda; None where one of the limits is given."""
    budget: Annotated[_Shares, *ONE_OR_MORE] | None = None
    """Shares of the full run's multiply-accumulates that a schedule may take, from loose to tight: a schedule each."""
    time_budget: Annotated[_Shares, *ONE_OR_MORE] | None = None
    """Shares of the full run's time on the device of `profile`, likewise."""
    max_error: Annotated[float, Field(gt=0)] | None = None
    """Mean squared error to the full run's images that the cheapest schedule may have, which is to be found."""
    profile: ProfileFile | None = None
    """What `l2c profile` wrote: then compute is counted as time."""
    forecast: bool = True
    """Not with lambda: whether a reused unit is forecast from its last two values, or keeps the last one."""
    theta: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], *ONE_OR_MORE] = (0.5,)
    """Thresholds of the paper's router: a schedule each, that computes where the score is above it."""
    initial_logit: Annotated[float, Field(ge=-100, le=100)] = 2.0
    shifted: bool = True
    """Which evaluation of a two-evaluation update may reuse: the first (of the next update), or else the second."""

    @property
    def budgets(self) -> tuple[float, ...]:
        """Shares of the full run, from loose to tight; none unless the limit is a budget."""
        return self.budget or self.time_budget or ()

    @property
    def keeps_a_limit(self) -> bool:
        """Whether what is learned is the best trajectory, and not the paper's loss."""
        return bool(self.budgets) or self.max_error is not None

    @model_validator(mode="after")
    def _has_one_aim(self) -> Self:
        aims = {
            "lambda": self.sparsity_weight,
            "budget": self.budget,
            "time_budget": self.time_budget,
            "max_error": self.max_error,
        }
        given = [name for name, value in aims.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"takes {given[0]} or {given[1]}, not both")
        if not given:
            raise ValueError("needs lambda, budget, time_budget or max_error")
        return self

    @model_validator(mode="after")
    def _counts_time_by_a_profile(self) -> Self:
        if self.time_budget and not self.profile:
            raise ValueError("takes a time_budget with a profile, which l2c profile makes")
        if self.profile and not (self.time_budget or self.max_error):
            raise ValueError("takes a profile with time_budget or max_error alone")
        return self

    @model_validator(mode="after")
    def _tightens(self) -> Self:
        if any(tighter >= looser for looser, tighter in pairwise(self.budgets)):
            raise ValueError("takes budgets from loose to tight")
        if len(set(self.theta)) < len(self.theta):
            raise ValueError("takes each theta but once")
        return self


class DataSection(Section):
    """Which images the paper's loss is learned from; the digits of scikit-learn unless told otherwise."""

    latents: Place | None = None
    """Where `l2c encode` wrote latents for the model."""
    mixed_shards: Annotated[int, Field(ge=1)] = 8
    """Shards of latents that a worker has in memory and draws from at a time."""


class TrainingSection(Section):
    """How long and how fast a router learns."""

    iterations: Annotated[int, Field(ge=1)]
    """Of all budgets together, where there are several."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Images per worker and iteration."""
    noises: Annotated[int, Field(ge=1)] = 256
    """With a budget: images per worker after which the same noise comes again. Their full runs are made once."""
    images_at_once: Annotated[int, Field(ge=1)] | None = None
    """Not with lambda: of a batch, for a model too large for all; each evaluation's graph is made anew for every pass
    back then, so that one is kept at a time."""
    along_the_way: Annotated[float, Field(ge=0)] = 0.2
    """Not with lambda: weight of the error after every step beside that of the final images."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    """Iterations between two checkpoints."""


class ClusterSection(Section):
    """What a run takes of the Ray cluster. Workers get a GPU each when there are enough."""

    workers: Annotated[int, Field(ge=1)] = 1
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Worker or node losses after which the run goes on from its last checkpoint."""
    wait_seconds: Annotated[int, Field(ge=0)] = 600
    """How long to wait for resources that other jobs hold."""


class EvaluationSection(Section):
    """The frontier protocol's size."""

    images: Annotated[int, Field(ge=2)] = 512
    batch_size: Annotated[int, Field(ge=1)] = 64


class LearnConfig(JobConfig):
    """Everything that determines a learned schedule."""

    run: RunSection = RunSection()
    model: ModelSection
    sampler: SamplerSection = SamplerSection()
    router: RouterSection
    data: DataSection = DataSection()
    training: TrainingSection
    cluster: ClusterSection = ClusterSection()
    evaluation: EvaluationSection = EvaluationSection()

    @model_validator(mode="after")
    def _needs_its_data(self) -> Self:
        if self.data.latents and self.router.keeps_a_limit:
            raise ValueError("takes data.latents with router.lambda alone: the other objectives learn from noise")
        return self
