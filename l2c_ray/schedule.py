"""The artifact: which units are computed at which step, for which model and sampler, and where that came from.

A schedule is strict JSON. Whatever does not fit (an unknown field, a wrong shape, a reuse at step 0, a wrong
hash, another format version) is refused with an error that names the field.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from l2c_ray.errors import ScheduleError
from l2c_ray.strict_json import canonical, digest, first_problem, require_plain_json

FORMAT = "l2c-schedule/1"

MOST_STEPS = 1000
"""As many as the public models were trained on; every sampler here takes some of them."""
MOST_UNITS = 1000
"""The largest public transformers have fewer than 300. Steps times units are bounded when JSON is read."""

_MOST_MACS = 2**63 - 1
_ROUNDING = 1e-9
"""By how much two floats may differ that were meant to be the same."""
_REMEDY = "take an unchanged schedule of this version"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""Name of a model, family or sampler; it becomes part of file names and of names in the registry."""
UnitName = Annotated[str, Field(pattern=r"^[^\s.]+(\.[^\s.]+)+$")]
"""The name of a block, a dot, and what the unit does in it, for instance `blocks.3.mlp`."""
_OF_STEPS = Field(max_length=MOST_STEPS, fail_fast=True)
_OF_UNITS = Field(max_length=MOST_UNITS, fail_fast=True)
Mask = Annotated[tuple[Annotated[tuple[int, ...], _OF_UNITS], ...], _OF_STEPS]
"""[steps][units] of 0 (reuse) and 1 (compute)."""
Forecast = Annotated[tuple[Annotated[tuple[tuple[float, ...], ...], _OF_UNITS], ...], _OF_STEPS]
"""[steps][units][up to 2] coefficients of a reused unit: `v0 + c1 * (v0 - v1) + c2 * (v0 - 2 * v1 + v2)`, where v0, v1
and v2 are the values computed last, v0 the very last. Empty where a unit is computed or takes its last value as is."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelIdentity(_Part):
    """The model that a schedule was made for."""

    name: Name
    family: Name
    depth: Annotated[int, Field(ge=1, le=MOST_UNITS)]
    """Number of blocks."""
    units: Annotated[tuple[UnitName, ...], Field(min_length=1), _OF_UNITS]
    """Names in the order of a forward pass."""
    weights_sha256: Sha256 | None
    """None where a schedule is for any weights of this architecture, as one that was imported is."""

    @model_validator(mode="after")
    def _units_of_so_many_blocks(self) -> Self:
        name, count = Counter(self.units).most_common(1)[0]
        if count > 1:
            raise ValueError(f"units has {name} more than once")
        blocks = len({name.rpartition(".")[0] for name in self.units})
        if blocks != self.depth:
            raise ValueError(f"depth is {self.depth}, but units are of {blocks} blocks")
        return self


MOST_GUIDANCE = 1000.0
"""Far above any use, and far below where samples leave the range of numbers."""
GuidanceRule = Literal["standard", "first-three", "beyond"]


class Guidance(_Part):
    """Classifier-free guidance (arXiv 2207.12598): how two evaluations, with and without the label, become one."""

    scale: Annotated[float, Field(ge=0, le=MOST_GUIDANCE)]
    rule: GuidanceRule = "standard"
    """`standard`: without + scale * (with - without). `first-three`: so on three channels, the others as with the
    label (the DiT authors' sampler). `beyond`: with + scale * (with - without) (the U-ViT authors')."""

    @property
    def needs_unlabelled(self) -> bool:
        """False where the evaluation with the label is already the result."""
        return self.scale != (0 if self.rule == "beyond" else 1)

    def __str__(self) -> str:
        return f"{self.scale:g} {self.rule}"


class SamplerIdentity(_Part):
    """The sampler that a schedule was made for."""

    name: Name
    order: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    timesteps: Annotated[tuple[Annotated[float, Field(ge=0)], ...], _OF_STEPS]
    """The model's timestep at each step, noisiest first."""
    guidance: Guidance

    @model_validator(mode="after")
    def _one_timestep_a_step_and_none_rising(self) -> Self:
        if len(self.timesteps) != self.steps:
            raise ValueError(f"timesteps has {len(self.timesteps)} values for {self.steps} steps")
        for step, (before, after) in enumerate(pairwise(self.timesteps), start=1):
            if after > before:
                raise ValueError(f"timesteps rises at step {step}, from {before} to {after}")
        return self


LEARNED, L2C = "learned", "l2c"
"""Policies of learned schedules: by the error of whole trajectories within a limit, and by the paper's objective."""


class Provenance(_Part):
    """The policy that made a schedule, with the settings that make it again."""

    policy: str
    """For instance `learned` or `fixed-interval`."""
    settings: dict[str, str | int | float | bool]
    git_commit: str | None = None


class Macs(_Part):
    """Multiply-accumulates of one image's whole trajectory, guidance left out (it doubles both)."""

    full: Annotated[int, Field(gt=0, le=_MOST_MACS)]
    cached: Annotated[int, Field(gt=0, le=_MOST_MACS)]

    @model_validator(mode="after")
    def _saves_or_costs_the_same(self) -> Self:
        if self.cached > self.full:
            raise ValueError(f"cached is {self.cached}, more than full, which is {self.full}")
        return self

    @property
    def share(self) -> float:
        """Cached over full, in (0, 1]."""
        return self.cached / self.full


class Cost(_Part):
    """Cost of a schedule in MACs, by two counts."""

    layers: Macs
    """Linear and convolution layers, as the paper counts."""
    with_attention: Macs
    """These, and the two matrix products inside attention; compute shares are of this count."""


class Quality(_Part):
    """Measured quality of a schedule, with the protocol."""

    protocol: str
    metrics: dict[str, float]

    @field_validator("metrics")
    @classmethod
    def _no_error_below_zero(cls, metrics: dict[str, float]) -> dict[str, float]:
        if metrics.get("mse", 0) < 0:
            raise ValueError(f"mse is {metrics['mse']}, less than 0")
        return metrics


class Table(_Part):
    """Masks and forecasts of all steps, the same for every input. Step 0 computes every unit."""

    compute: Mask
    cache_steps: Annotated[tuple[int, ...], _OF_STEPS]
    """Steps at which the policy might reuse; everywhere else all is computed."""
    forecast: Forecast | None = None
    """None where every reused unit takes its last value as it is."""

    @classmethod
    def of(cls, compute: Mask, cache_steps: Iterable[int] | None = None, forecast: Forecast | None = None) -> Self:
        """The table of a mask; its cache steps are those that reuse something, unless given.

        Raises:
            ScheduleError: the mask is not binary or not rectangular, or it reuses where it may not.
        """
        if cache_steps is None:
            cache_steps = (step for step, row in enumerate(compute) if not all(row))
        try:
            return cls(compute=compute, cache_steps=tuple(cache_steps), forecast=forecast)
        except ValidationError as error:
            raise first_problem(error, "new table", _REMEDY) from error

    @property
    def removed_share(self) -> float:
        """Share of the units of the cache steps that is reused, as the paper counts."""
        there = len(self.cache_steps) * len(self.compute[0])
        computed = sum(sum(self.compute[step]) for step in self.cache_steps)
        return (there - computed) / there if there else 0.0

    @field_validator("compute")
    @classmethod
    def _binary_and_computed_at_first(cls, mask: Mask) -> Mask:
        if not mask or not mask[0]:
            raise ValueError("has no units of a first step")
        for step, row in enumerate(mask):
            if len(row) != len(mask[0]):
                raise ValueError(f"has {len(row)} values at step {step} and {len(mask[0])} at step 0")
            if not set(row) <= {0, 1}:
                raise ValueError(f"step {step} holds a value other than 0 and 1")
        if not all(mask[0]):
            raise ValueError(f"step 0 reuses unit {mask[0].index(0)}, but there is nothing yet to reuse")
        return mask

    @model_validator(mode="after")
    def _reuses_at_cache_steps_alone(self) -> Self:
        may_reuse = set(self.cache_steps) & set(range(1, len(self.compute)))
        if list(self.cache_steps) != sorted(may_reuse):
            raise ValueError(f"cache_steps are not rising numbers from 1 to {len(self.compute) - 1}")
        for step, row in enumerate(self.compute):
            if step not in may_reuse and not all(row):
                raise ValueError(f"compute reuses at step {step}, which is not one of cache_steps")
        return self

    @model_validator(mode="after")
    def _forecasts_only_from_values_there_are(self) -> Self:
        if self.forecast is None:
            return self
        if [len(row) for row in self.forecast] != [len(row) for row in self.compute]:
            raise ValueError("forecast has another shape than compute")
        computed = [0] * len(self.compute[0])
        for step, (row, coefficients) in enumerate(zip(self.compute, self.forecast, strict=True)):
            for unit, (bit, given) in enumerate(zip(row, coefficients, strict=True)):
                most = 0 if bit else min(2, computed[unit] - 1)
                if len(given) > most:
                    raise ValueError(
                        f"forecast has {len(given)} coefficients, not at most {most}, at step {step} for unit {unit}"
                    )
                computed[unit] += bit
        return self


class Schedule(_Part):
    """A table for one model and one sampler, with its provenance, its cost and a hash over all of them.

    >>> import l2c_ray
    >>> schedule = l2c_ray.schedule_by_rule("fixed-interval:interval=2", l2c_ray.Pipeline.load("digits-dit"))
    >>> round(schedule.compute_share, 2)
    0.51
    >>> Schedule.from_json(schedule.to_json(), source="a copy") == schedule
    True
    """

    format: Literal["l2c-schedule/1"]
    model: ModelIdentity
    sampler: SamplerIdentity
    table: Table
    provenance: Provenance
    cost: Cost
    quality: Quality | None = None
    sha256: Sha256
    """SHA-256 of the canonical JSON of every other field."""

    @model_validator(mode="after")
    def _table_fits_model_and_sampler(self) -> Self:
        steps, units, mask = self.sampler.steps, len(self.model.units), self.table.compute
        if len(mask) != steps:
            raise ValueError(f"table.compute has {len(mask)} rows for {steps} steps")
        if len(mask[0]) != units:
            raise ValueError(f"table.compute has {len(mask[0])} values a step for {units} units")
        if self.sha256 != digest(self.model_dump(mode="json")):
            raise ValueError("sha256 does not match the content")
        return self

    @classmethod
    def create(
        cls,
        model: ModelIdentity,
        sampler: SamplerIdentity,
        table: Table,
        provenance: Provenance,
        cost: Cost,
        quality: Quality | None = None,
    ) -> Self:
        """A schedule with its hash.

        Raises:
            ScheduleError: the table has another shape than steps x units.
        """
        parts = {"model": model, "sampler": sampler, "table": table, "provenance": provenance, "cost": cost}
        content: dict[str, Any] = {name: part.model_dump(mode="json") for name, part in parts.items()}
        content |= {"format": FORMAT, "quality": quality and quality.model_dump(mode="json")}
        return cls.from_json(json.dumps(content | {"sha256": digest(content)}), source="new schedule")

    @classmethod
    def from_json(cls, text: str, source: str) -> Self:
        """The schedule written in `text`; `source` (a file or a version) is named in errors.

        Raises:
            ScheduleError: anything about it is unknown, missing, out of range, inconsistent, or changed since it
                was written.
        """
        require_plain_json(text, source, _REMEDY)
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise first_problem(error, source, _REMEDY) from error

    def to_json(self) -> str:
        """Canonical JSON; the same schedule always gives the same text."""
        return canonical(self.model_dump(mode="json")) + "\n"

    def with_quality(self, quality: Quality) -> Self:
        """The same schedule with what was measured, under a new hash."""
        return self.create(self.model, self.sampler, self.table, self.provenance, self.cost, quality)

    def require(self, model: ModelIdentity, sampler: SamplerIdentity) -> None:
        """Refuses a model or sampler that the schedule was not made for.

        Raises:
            ScheduleError: names the first field that differs.
        """
        for part, wanted, given in (("model", self.model, model), ("sampler", self.sampler, sampler)):
            for name in type(wanted).model_fields:
                made_for, found = getattr(wanted, name), getattr(given, name)
                if made_for is not None and not _same(made_for, found):
                    raise ScheduleError(
                        f"{part}.{name}",
                        f"the schedule was made for {_short(made_for)}, not {_short(found)}",
                        "use a schedule learned for this model and sampler",
                    )

    @property
    def compute_share(self) -> float:
        """Share of the baseline's multiply-accumulates that is computed, in (0, 1]."""
        return self.cost.with_attention.share


def _same(made_for: object, found: object) -> bool:
    """Equal, but for the last digits of a float: CPUs round the logarithms that a solver's timesteps come from each
    in their own way.
    """
    if isinstance(made_for, tuple) and isinstance(found, tuple):
        return len(made_for) == len(found) and all(map(_same, made_for, found))
    if isinstance(made_for, float) and isinstance(found, float):
        return math.isclose(made_for, found, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return made_for == found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
