"""Common base of the update rules of a stage."""

from dataclasses import dataclass
from typing import TypeVar

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig
from l2c_ray.learning.trajectory.batch import Batch
from l2c_ray.learning.trajectory.budget_curriculum import Stage
from l2c_ray.learning.trajectory.budget_router import BudgetRouter
from l2c_ray.learning.trajectory.noise_pool import NoisePool
from l2c_ray.learning.updates import Update, UpdateRule

U = TypeVar("U", bound=Update)


@dataclass(frozen=True)
class TrajectoryUpdateRule(UpdateRule[U]):
    """Updates a router in one iteration of a stage; all state is the router's."""

    config: LearnConfig
    pipeline: Pipeline
    router: BudgetRouter
    noise_pool: NoisePool
    stage: Stage
    iteration: int
    rank: int

    def roll_out(self) -> Batch:
        """The iteration's batch under the router."""
        training = self.config.training
        return Batch(
            self.pipeline,
            self.noise_pool.baseline(self.iteration),
            self.router.mask,
            self.router.coefficients,
            intermediate_loss_weight=training.intermediate_loss_weight,
            micro_batch_size=training.micro_batch_size,
        )
