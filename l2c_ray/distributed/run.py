"""The record of a learning run, from its preparation to the schedules that come of it.

A learning job, each of its workers and each trial of a search prepare their runs here, and build schedules here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig
from l2c_ray.config.search import DeriveSection
from l2c_ray.data.images import TrainingImages
from l2c_ray.data.training import open_training_images
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.learning.learner import Learner
from l2c_ray.learning.objectives import Objective, Settings, make_objective
from l2c_ray.models.macs import count_macs
from l2c_ray.registry.lineage import git_commit
from l2c_ray.schedule import Provenance, Schedule, Table
from l2c_ray.search.results import WARM_FROM


@dataclass(frozen=True)
class StudyTrial:
    """The parent of a run: a study, with the number of the trial that the run is."""

    study: str
    number: int
    warm_from: int | None = None
    """Number of the trial that learning began from."""

    def settings(self) -> Settings:
        """Provenance of the trial's schedules."""
        began = {} if self.warm_from is None else {WARM_FROM: self.warm_from}
        return {"study": self.study, "trial": self.number, **began}


@dataclass(frozen=True)
class LearnedSchedule:
    """A schedule of a run."""

    settings: Mapping[str, str | float]
    """Its provenance beside that of the run's other schedules, for instance a threshold."""
    schedule: Schedule


@dataclass(frozen=True)
class Run:
    """A learning run in one process."""

    config: LearnConfig
    objective: Objective
    pipeline: Pipeline
    data: TrainingImages
    """The share of this process's worker."""
    learner: Learner
    parent: StudyTrial | None = None
    """None for a run by itself."""

    @classmethod
    def prepare(
        cls,
        config: LearnConfig,
        pipeline: Pipeline | None = None,
        rank: int = 0,
        environment: Mapping[str, str] = os.environ,
    ) -> Self:
        """The run before its first iteration.

        Args:
            pipeline: the config's pipeline, loaded already; loaded here on the CPU if None.
            rank: number of the worker whose share of the data is opened.
            environment: variables with the addresses and keys of the data's storage.

        Raises:
            InvalidInputError: the model, sampler, data or objective cannot be had or do not fit together.
            UnreachableError: the storage of the data does not answer.
        """
        pipeline = pipeline or Pipeline.from_config(config.model, config.sampler)
        data = open_training_images(config, rank, environment)
        objective = make_objective(config)
        learner = objective.make_learner(pipeline.model, pipeline.solver, data, rank)
        return cls(config, objective, pipeline, data, learner)

    def lasting_settings(self) -> dict[str, str | int | float | bool | None]:
        """Settings that a resumed run must share with its first session."""
        model = {"model": self.config.model.name, "weights_sha256": self.pipeline.model.identity().weights_sha256}
        sampler = {f"sampler.{key}": value for key, value in self.config.sampler}
        return {**self.objective.lasting_settings(), **self.data.settings(), **model, **sampler}

    def build_schedules(self) -> list[LearnedSchedule]:
        """A schedule of each table that was learned, in their order."""
        tables = zip(self.objective.schedule_settings(), self.learner.tables(), strict=True)
        return [self._build(settings, table) for settings, table in tables]

    def derive_schedules(self, derive: DeriveSection) -> list[LearnedSchedule]:
        """More schedules, by other thresholds; none where the objective has no thresholds."""
        if not derive.asks_for_any:
            return []
        macs = count_macs(self.pipeline.model).with_attention
        tables = self.learner.derived_tables(
            derive.thresholds, derive.budget, lambda table: macs.of(table.compute).share
        )
        return [self._build(settings, table) for settings, table in tables]

    def _build(self, own: Mapping[str, str | float], table: Table) -> LearnedSchedule:
        shared = {**self.objective.settings(), **self.data.settings(), "iterations": self.learner.iteration}
        trial = self.parent.settings() if self.parent else {}
        settings = {**shared, **trial, **own}
        provenance = Provenance(policy=self.objective.policy, settings=settings, git_commit=git_commit())
        return LearnedSchedule(own, make_schedule(self.pipeline, table, provenance))
