"""Config of jobs/learn.py and `l2c learn`."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from l2c_ray.config.base import ONE_OR_MORE, Destination, Folder, JobConfig, Place, Section
from l2c_ray.config.profile import ProfileFile
from l2c_ray.schedule import MOST_GUIDANCE, MOST_STEPS, Guidance, GuidanceRule, Name


class RunSection(Section):
    """Name, seed and storage of a run."""

    name: Name | None = None
    """A run resumes from the last checkpoint of its name; without a name every run is new."""
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    experiment: Name = "l2c"
    """The MLflow experiment."""
    storage: Destination | None = None
    """Checkpoints of all runs: a folder that every node sees, or s3://bucket/prefix; by default `$L2C_STORAGE`, or
    `$L2C_HOME/runs` without it."""


class ModelSection(Section):
    """The model that a schedule is learned for."""

    name: Annotated[str, Field(min_length=1)]
    checkpoint: Folder | None = None
    """A folder in diffusers' layout, in place of the weights that ship in the package."""


class SamplerSection(Section):
    """The trajectory that a schedule is learned for."""

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
    """The objective: the paper's (`l2c`) with `lambda`, or the best trajectory within one of the three limits."""

    sparsity_weight: Annotated[Annotated[float, Field(ge=0)] | None, Field(alias="lambda")] = None
    """Lambda, at least 0; None with one of the limits."""
    budget: Annotated[_Shares, *ONE_OR_MORE] | None = None
    """Shares of the baseline's multiply-accumulates, in (0, 1] and from loose to tight: a schedule for each."""
    time_budget: Annotated[_Shares, *ONE_OR_MORE] | None = None
    """Shares of the baseline's time on the device of `profile`, in (0, 1] and from loose to tight."""
    max_error: Annotated[float, Field(gt=0)] | None = None
    """Mean squared error to the baseline's images below which the cheapest schedule is searched for."""
    profile: ProfileFile | None = None
    """A file that `l2c profile` wrote: compute is counted in its seconds."""
    forecast: bool = True
    """Without lambda: whether a reused unit is forecast from its last two values, or takes the last one."""
    theta: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], *ONE_OR_MORE] = (0.5,)
    """Thresholds of the paper's router: a schedule for each, which computes where the score is above it."""
    initial_logit: Annotated[float, Field(ge=-100, le=100)] = 2.0
    shifted: bool = True
    """With a solver of two evaluations per update: the first one (of the next update) may reuse, else the second."""

    @property
    def budgets(self) -> tuple[float, ...]:
        """Shares of the baseline's compute or time, from loose to tight; empty unless a budget is the limit."""
        return self.budget or self.time_budget or ()

    @property
    def keeps_a_limit(self) -> bool:
        """Whether the objective is `trajectory`, and not the paper's."""
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
    """Images for the paper's objective; scikit-learn's digits unless `latents` names others."""

    renamed: ClassVar[Mapping[str, str]] = {"mixed_shards": "shuffle_shards"}

    latents: Place | None = None
    """A folder or s3://bucket/prefix with latents that `l2c encode` wrote for the model."""
    shuffle_shards: Annotated[int, Field(ge=1)] = 8
    """Shards of latents that a worker holds in memory and draws from at a time."""


class TrainingSection(Section):
    """Length, batches and learning rate of the training of a router."""

    renamed: ClassVar[Mapping[str, str]] = {
        "along_the_way": "intermediate_loss_weight",
        "images_at_once": "micro_batch_size",
        "noises": "noise_pool_size",
    }

    iterations: Annotated[int, Field(ge=1)]
    """Iterations of the whole run, all budgets together."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Images per worker and iteration."""
    noise_pool_size: Annotated[int, Field(ge=1)] = 256
    """Without lambda: images per worker whose noise is drawn once and reused; their baselines are computed once."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Without lambda: images of a batch that are run at a time, with activation checkpointing, for a model too large
    for the whole batch; None runs the whole batch."""
    intermediate_loss_weight: Annotated[float, Field(ge=0)] = 0.2
    """Without lambda: weight of the mean error over all steps beside that of the final images."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    """Iterations between two checkpoints."""


class ClusterSection(Section):
    """Resources of a run on the Ray cluster. Each worker gets a GPU if there are enough."""

    workers: Annotated[int, Field(ge=1)] = 1
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Losses of a worker or node after which the run resumes from its last checkpoint."""
    wait_seconds: Annotated[int, Field(ge=0)] = 600
    """Longest wait for resources that other jobs hold."""


class EvaluationSection(Section):
    """Size of the frontier protocol."""

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
