"""The learner that a config asks for."""

from l2c_ray.config.learn import LearnConfig
from l2c_ray.data.digits import LabelledImages
from l2c_ray.errors import ConfigError
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
        ConfigError: a budget is less than what cannot be reused, there are too few iterations for all of them, or the
            profile is of another model; or the paper's objective has no data for the model, or no step that may reuse.
    """
    if config.router.keeps_a_limit:
        return TrajectoryLearner(config, model, solver, rank)
    if model.image_shape != tuple(data.images.shape[1:]):
        problem = f"the paper's loss has no data for {model.name}, whose samples are {list(model.image_shape)}"
        raise ConfigError("router.lambda", problem, "give router.budget, which needs none")
    if not solver.cache_steps(shifted=config.router.shifted):
        problem = f"{solver.steps} evaluations of {solver.name} leave no step that may reuse"
        raise ConfigError("sampler.steps", problem, "take more, or give router.budget")
    return PairLearner(config, model, solver, data, rank)
