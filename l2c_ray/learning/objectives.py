"""Objectives: the two ways to train a router, each with everything about a run that depends on which of them it is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar

from l2c_ray.config.learn import LearnConfig
from l2c_ray.data import digits
from l2c_ray.data.images import TrainingImages
from l2c_ray.errors import ConfigError
from l2c_ray.learning.l2c.learner import L2CLearner
from l2c_ray.learning.learner import Learner
from l2c_ray.learning.trajectory.learner import TrajectoryLearner
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.solver import Solver
from l2c_ray.schedule import L2C, LEARNED

Settings = dict[str, str | int | float | bool]
"""Provenance of a schedule, by key."""


@dataclass(frozen=True)
class Objective(ABC):
    """A training objective, as a config sets it."""

    name: ClassVar[str]
    """In provenance."""
    policy: ClassVar[str]
    """Policy of its schedules, in provenance."""
    config: LearnConfig

    def settings(self) -> Settings:
        """Provenance that all schedules of a run share; with the number of iterations and the training data it
        reproduces them on the same kind of worker.
        """
        return {
            "objective": self.name,
            **self._hyperparameters(),
            "batch_size": self.config.training.batch_size,
            "learning_rate": self.config.training.learning_rate,
            "workers": self.config.cluster.workers,
            "seed": self.config.run.seed,
        }

    def lasting_settings(self) -> Settings:
        """Settings that a resumed run must share with its first session."""
        return self.settings()

    def schedule_names(self, joint: str) -> list[str]:
        """One name per schedule, each key of `schedule_settings` and its value around `joint`; one empty name if the
        run has a single schedule.
        """
        names = [joint.join(map(str, item)) for settings in self.schedule_settings() for item in settings.items()]
        return names if len(names) > 1 else [""]

    @abstractmethod
    def schedule_settings(self) -> list[dict[str, float]]:
        """Provenance of each schedule alone, in the order of the learner's tables."""

    @abstractmethod
    def parents(self, schedules: Sequence[str]) -> list[str | None]:
        """The hash of the schedule that each of `schedules` (hashes, in order) was learned from; None without one."""

    @abstractmethod
    def describe_data(self, data: TrainingImages) -> str:
        """The training data in one line, with its hash; `data` may be any worker's share."""

    @abstractmethod
    def make_learner(self, model: CacheableTransformer, solver: Solver, data: TrainingImages, rank: int = 0) -> Learner:
        """A learner before its first iteration.

        Args:
            data: the share of the worker `rank`.

        Raises:
            ConfigError: the model, its units, the sampler or the data do not suit the config.
        """

    @abstractmethod
    def _hyperparameters(self) -> Settings:
        """Settings that only this objective has."""


class L2CObjective(Objective):
    """Error of neighbouring steps plus lambda times the scores, on noised data (arXiv 2406.01733, section 3.3)."""

    name = "l2c"
    policy = L2C

    def schedule_settings(self) -> list[dict[str, float]]:
        return [{"theta": theta} for theta in self.config.router.theta]

    def parents(self, schedules: Sequence[str]) -> list[str | None]:
        return [None] * len(schedules)

    def describe_data(self, data: TrainingImages) -> str:
        if self.config.data.latents is None:
            return f"digits, sha256 {digits.load().sha256}"
        return f"{self.config.data.latents}, sha256 {data.sha256}"

    def make_learner(self, model: CacheableTransformer, solver: Solver, data: TrainingImages, rank: int = 0) -> Learner:
        self._require_fit(model, data)
        if not solver.cache_steps(shifted=self.config.router.shifted):
            problem = f"{solver.steps} evaluations of {solver.name} leave no step that may reuse"
            raise ConfigError("sampler.steps", problem, "take more, or give router.budget")
        return L2CLearner(self.config, model, solver, data, rank)

    def _hyperparameters(self) -> Settings:
        router = self.config.router
        return {
            "lambda": router.sparsity_weight or 0.0,
            "initial_logit": router.initial_logit,
            "shifted": router.shifted,
        }

    def _require_fit(self, model: CacheableTransformer, data: TrainingImages) -> None:
        """Raises ConfigError for images of another shape, or of more classes, than the model's."""
        latents = self.config.data.latents
        if model.image_shape != data.image_shape:
            shape = list(model.image_shape)
            if not latents:
                problem = f"the paper's loss has no data for {model.name}, whose samples are {shape}"
                raise ConfigError("router.lambda", problem, "give data.latents, or router.budget, which needs none")
            problem = f"has latents of {list(data.image_shape)}, and samples of {model.name} are {shape}"
            raise ConfigError("data.latents", problem, "encode images of the model's size with its autoencoder")
        if data.num_classes > model.num_classes:
            key = "data.latents" if latents else "router.lambda"
            problem = f"has {data.num_classes} classes, and {model.name} knows {model.num_classes}"
            raise ConfigError(key, problem, "give images of the model's classes")


class TrajectoryObjective(Objective):
    """Error of the whole guided trajectory from noise, within budgets or below an error; needs no data."""

    name = "trajectory"
    policy = LEARNED

    def lasting_settings(self) -> Settings:
        # The compute share falls over all iterations, so that their number cannot change on the way.
        return self.settings() | {"iterations": self.config.training.iterations}

    def schedule_settings(self) -> list[dict[str, float]]:
        router = self.config.router
        if router.max_error is not None:
            return [{"max_error": router.max_error}]
        key = "budget" if router.budget else "time_budget"
        return [{key: budget} for budget in router.budgets]

    def parents(self, schedules: Sequence[str]) -> list[str | None]:
        return [None, *schedules[:-1]]

    def describe_data(self, data: TrainingImages) -> str:
        return "noise"

    def make_learner(self, model: CacheableTransformer, solver: Solver, data: TrainingImages, rank: int = 0) -> Learner:
        return TrajectoryLearner(self.config, model, solver, rank)

    def _hyperparameters(self) -> Settings:
        router, training = self.config.router, self.config.training
        profile = router.profile
        return {
            "limits": ", ".join(map(str, router.budgets or [router.max_error])),
            "cost": f"seconds by profile {sha256(profile.to_json().encode()).hexdigest()}" if profile else "macs",
            "forecast": router.forecast,
            "intermediate_loss_weight": training.intermediate_loss_weight,
            "noise_pool_size": training.noise_pool_size,
        }


def make_objective(config: LearnConfig) -> Objective:
    """The objective that the config asks for: the trajectory where a budget or an error limits it, else the paper's."""
    return (TrajectoryObjective if config.router.keeps_a_limit else L2CObjective)(config)
