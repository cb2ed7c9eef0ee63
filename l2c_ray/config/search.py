"""Settings of jobs/search.py and `l2c search`."""

import copy
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from l2c_ray.config.base import JobConfig, Section, read_toml
from l2c_ray.config.learn import LearnConfig
from l2c_ray.config.overrides import Override
from l2c_ray.config.promotion import GateSection
from l2c_ray.errors import ConfigError
from l2c_ray.schedule import Name
from l2c_ray.storage import places

SamplerName = Literal["tpe", "nsga2", "nsga3", "gp", "random"]
PrunerName = Literal["none", "median", "hyperband", "asha"]

_Value = str | bool | int | float
_Theta = Annotated[float, Field(ge=0, le=1)]
_Budget = Annotated[float, Field(gt=0, lt=1)]

_THE_SAME_FOR_ALL = ("model", "sampler", "evaluation", "cluster", "run.name", "run.experiment", "run.storage")
"""Sections of a LearnConfig that all trials share: they are compared by one baseline on one cluster."""


def _shares_of_one_or_whole(gpus: float) -> float:
    """As Ray hands them out."""
    if 0 < gpus < 0.01 or (gpus > 1 and not gpus.is_integer()):
        raise ValueError("takes a share of one GPU, from 0.01 on, or a whole number of them")
    return gpus


def _number(given: Any) -> int | float:
    """Whole or not. By pydantic's own check of either, what is neither would be called no whole number."""
    # Beyond them the float that a study keeps of a whole number is another number.
    if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) <= 2**53:
        raise ValueError("takes a number from -2**53 to 2**53")
    return given


_Number = Annotated[int | float, BeforeValidator(_number)]


class StudySection(Section):
    """How much is searched, in which way, and how many trials run at a time."""

    name: Name | None = None
    """A study of the same name goes on, in one driver or several; without a name every study is a new one."""
    trials: Annotated[int, Field(ge=1)]
    """Learned ones in the end, whoever runs them; schedules that are derived from them come on top."""
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "none"
    """Stops trials early that look bad while they learn; with a limit in [objective] only."""
    parallel: Annotated[int, Field(ge=1)] = 1
    """Trials that this driver runs side by side."""
    cpus_per_trial: Annotated[float, Field(ge=0.01)] = 1.0
    """CPUs of a trial that learns in one process; learn.cluster counts those of trials on several workers."""
    gpus_per_trial: Annotated[float, Field(ge=0), AfterValidator(_shares_of_one_or_whole)] = 0.0
    """GPUs of such a trial; half a GPU lets two trials share one."""
    lease_seconds: Annotated[float, Field(ge=1)] = 60.0
    """A running trial whose driver has not been heard of for so long is another driver's to take up."""
    max_retries: Annotated[int, Field(ge=0)] = 2
    """How often a trial is run again whose worker died; one whose driver died is run again in any case."""
    warm_start: bool = False
    """Let a trial begin where the nearest finished one ended, if its learner can."""


class ObjectiveSection(Section):
    """Measures to minimize: cost and error both, or one of them within a limit on the other."""

    cost: Literal["compute_share", "seconds"] = "compute_share"
    """Share of the baseline's multiply-accumulates, or measured seconds of sampling `evaluation.images` images."""
    max_mse: Annotated[float, Field(gt=0)] | None = None
    """Search for the cheapest schedule with at most this error."""
    max_cost: Annotated[float, Field(gt=0)] | None = None
    """Search for the best schedule with at most this cost."""

    @property
    def has_a_limit(self) -> bool:
        """Whether one number is made smaller, and not two."""
        return self.max_mse is not None or self.max_cost is not None

    @model_validator(mode="after")
    def _has_one_limit(self) -> Self:
        if self.max_mse is not None and self.max_cost is not None:
            raise ValueError("takes max_mse or max_cost, not both")
        return self


class RangeSection(Section):
    """The values of one setting: numbers from `low` to `high`, whole ones if both are, or one of `choices`."""

    low: _Number | None = None
    high: _Number | None = None
    log: bool = False
    step: _Number | None = None
    choices: Annotated[tuple[_Value, ...], Field(strict=False, min_length=1)] | None = None

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[_Value, ...]:
        """The values that a config is tried with before anything starts."""
        return self.choices or tuple(end for end in (self.low, self.high) if end is not None)

    @model_validator(mode="after")
    def _is_a_range_or_choices(self) -> Self:
        if self.choices is not None:
            if self.model_fields_set != {"choices"}:
                raise ValueError("takes choices alone, or low and high")
            return self
        if self.low is None or self.high is None:
            raise ValueError("needs low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"has low = {self.low}, which is not less than high = {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("takes log with low above 0 and without step")
        if self.step is not None and (self.step <= 0 or (self.is_whole and not isinstance(self.step, int))):
            raise ValueError("takes a step above 0, and a whole one between whole numbers")
        # Of the numbers as written: 4.3 - 4.0 is less than 0.3 in binary.
        low, high, step = (Decimal(str(number or 0)) for number in (self.low, self.high, self.step))
        if step > high - low:
            raise ValueError(f"has step = {step}, which is more than from low to high")
        return self


class DeriveSection(Section):
    """More schedules of a router that the paper's loss taught, without learning again."""

    theta: Annotated[tuple[_Theta, ...], Field(strict=False)] = ()
    """Thresholds for the whole trajectory."""
    by_phase: Annotated[
        tuple[Annotated[tuple[_Theta, ...], Field(strict=False, min_length=2)], ...], Field(strict=False)
    ] = ()
    """Lists of thresholds, one for each phase of the trajectory; the phases have the same length."""
    budget: Annotated[tuple[_Budget, ...], Field(strict=False)] = ()
    """Shares of the baseline's compute, each met by the threshold that just keeps within it, if one does."""

    @property
    def thresholds(self) -> tuple[tuple[float, ...], ...]:
        """One tuple a schedule, with a threshold for each of its phases."""
        return (*((theta,) for theta in self.theta), *self.by_phase)

    @property
    def asks_for_any(self) -> bool:
        return bool(self.thresholds or self.budget)


def _flat(space: Any) -> Any:
    """Ranges by dotted key, whether the key was written as one or as nested tables."""
    if not isinstance(space, Mapping):
        return space
    flat: dict[str, Any] = {}
    for key, value in space.items():
        if isinstance(value, Mapping) and value and all(isinstance(inner, Mapping) for inner in value.values()):
            flat |= {f"{key}.{inner}": found for inner, found in _flat(value).items()}
        else:
            flat[key] = value
    return flat


class SearchConfig(JobConfig):
    """Everything that determines a study."""

    learn: dict[str, Any]
    """Tables of a LearnConfig that trials have in common; in a file, this table or the path of a file with them."""
    study: StudySection
    objective: ObjectiveSection = ObjectiveSection()
    space: Annotated[dict[str, RangeSection], BeforeValidator(_flat), Field(min_length=1)]
    """By dotted key of a LearnConfig, whichever it is: `router.lambda = {low = 1e-5, high = 1e-3, log = true}`."""
    derive: DeriveSection = DeriveSection()
    gate: GateSection = GateSection()
    """Gate that a schedule passes before it gets a tier."""

    @classmethod
    def parse(cls, values: dict[str, Any], source: str, table: str = "") -> Self:
        """As of any section; beyond that, every end of every range has to make a LearnConfig.

        Raises:
            ConfigError: names the key of the range, or of the LearnConfig, that is at fault.
        """
        config = super().parse(values, source, table)
        config._require_learnable_ends(source)
        return config

    @classmethod
    def values_in(cls, path: Path) -> dict[str, Any]:
        values = super().values_in(path)
        beside = values.get("learn")
        if not isinstance(beside, str):
            return values
        try:
            return values | {"learn": read_toml(places.absolute(beside, path.parent))}
        except ValueError as error:
            raise ConfigError(f"learn in {path}", str(error), "give the path of a TOML file") from error

    @classmethod
    def take_texts(cls, overrides: Sequence[Override], values: dict[str, Any]) -> None:
        super().take_texts(overrides, values)
        if isinstance(learn := values.get("learn"), dict):
            inner = (override.below("learn") for override in overrides)
            LearnConfig.take_texts([override for override in inner if override is not None], learn)

    def learn_config(self, params: Mapping[str, Any], source: str = "config") -> LearnConfig:
        """The learning config of a trial with these values of the space.

        Raises:
            ConfigError: they make no LearnConfig.
        """
        values = copy.deepcopy(self.learn)
        for key, value in params.items():
            *tables, last = key.split(".")
            inner = values
            for table in tables:
                inner = inner.setdefault(table, {})
                if not isinstance(inner, dict):
                    raise ConfigError(f"space.{key} in {source}", f"{table} is a value, not a table", "name a key")
            inner[last] = value
        return LearnConfig.parse(values, source, table="learn")

    def corners(self) -> list[dict[str, Any]]:
        """Values of the space with which every end of every range is tried once, the others at their first."""
        first = {key: found.ends[0] for key, found in self.space.items()}
        return [first | {key: end} for key, found in self.space.items() for end in found.ends]

    def _require_learnable_ends(self, source: str) -> None:
        for key in self.space:
            if any(key == fixed or key.startswith(f"{fixed}.") for fixed in _THE_SAME_FOR_ALL):
                raise ConfigError(f"space.{key} in {source}", "has to be the same for all trials", "set it in learn")
        if self.study.pruner != "none" and not self.objective.has_a_limit:
            problem = f"{self.study.pruner} compares one number, and there are two objectives"
            raise ConfigError(f"study.pruner in {source}", problem, "give objective.max_mse or objective.max_cost")
        if self.derive.asks_for_any and "router.theta" in self.space:
            problem = "is what derive varies, of one router"
            raise ConfigError(f"space.router.theta in {source}", problem, "leave out one of them")
        keys = [key for key, found in self.space.items() for _ in found.ends]
        for key, params in zip(keys, self.corners(), strict=True):
            self._require_learnable(key, params, source)

    def _require_learnable(self, key: str, params: Mapping[str, Any], source: str) -> None:
        try:
            learned = self.learn_config(params, source)
        except ConfigError as error:
            place = error.subject.partition(" in ")[0].removeprefix("learn.")
            # The key that is at its other end now, before those that are at their first.
            suspects = [each for each in (key, *self.space) if each == place or each.startswith(f"{place}.")]
            if not suspects:
                raise
            subject = f"space.{suspects[0]} in {source}"
            raise ConfigError(subject, f"cannot be {params[suspects[0]]!r} ({error.problem})", error.remedy) from error
        if self.derive.asks_for_any and learned.router.keeps_a_limit:
            problem = "thresholds are of the paper's router, and these trials keep within a limit"
            raise ConfigError(f"derive in {source}", problem, "give router.lambda, or list budgets in learn")
