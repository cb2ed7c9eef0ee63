"""The learner that a config asks for."""

from l2c_ray.config.learn import LearnConfig
from l2c_ray.data.digits import LabelledImages
from l2c_ray.learning.learner import Learner
from l2c_ray.learning.pair_learner import PairLearner
from l2c_ray.learning.trajectory_learner import TrajectoryLearner
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.solver import Solver


def make_learner(
    config: LearnConfig, model: CacheableTransformer, solver: Solver, data: LabelledImages, rank: int = 0
) -> Learner:
    """A learner as it begins; `data` is this worker's shard, which only the paper's objective needs.

    Raises:
        ConfigError: the budget is less than what cannot be reused.
    """
    if config.router.budget:
        return TrajectoryLearner(config, config.router.budget, model, solver, rank)
    return PairLearner(config, model, solver, data, rank)
