"""The learner that a config asks for."""

from l2c_ray.config.learn import LearnConfig
from l2c_ray.data.images import TrainingImages
from l2c_ray.errors import ConfigError
from l2c_ray.learning.learner import Learner
from l2c_ray.learning.pair_learner import PairLearner
from l2c_ray.learning.trajectory_learner import TrajectoryLearner
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.solver import Solver


def make_learner(
    config: LearnConfig, model: CacheableTransformer, solver: Solver, data: TrainingImages, rank: int = 0
) -> Learner:
    """A learner as it begins; `data` is this worker's share, which only the paper's objective needs.

    Raises:
        ConfigError: a budget is less than what cannot be reused, there are too few iterations for all of them, or the
            profile is of another model; or the paper's objective has no data for the model, or no step that may reuse.
    """
    if config.router.keeps_a_limit:
        return TrajectoryLearner(config, model, solver, rank)
    _require_fit(config, model, data)
    if not solver.cache_steps(shifted=config.router.shifted):
        problem = f"{solver.steps} evaluations of {solver.name} leave no step that may reuse"
        raise ConfigError("sampler.steps", problem, "take more, or give router.budget")
    return PairLearner(config, model, solver, data, rank)


def _require_fit(config: LearnConfig, model: CacheableTransformer, data: TrainingImages) -> None:
    """Refuses images of another shape or of other classes than the model's."""
    if model.image_shape != data.image_shape:
        if not config.data.latents:
            problem = f"the paper's loss has no data for {model.name}, whose samples are {list(model.image_shape)}"
            raise ConfigError("router.lambda", problem, "give data.latents, or router.budget, which needs none")
        problem = f"has latents of {list(data.image_shape)}, and samples of {model.name} are {list(model.image_shape)}"
        raise ConfigError("data.latents", problem, "encode images of the model's size with its autoencoder")
    if data.num_classes > model.num_classes:
        key = "data.latents" if config.data.latents else "router.lambda"
        problem = f"has {data.num_classes} classes, and {model.name} knows {model.num_classes}"
        raise ConfigError(key, problem, "give images of the model's classes")
