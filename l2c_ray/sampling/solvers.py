"""Solvers by the names that configs and schedules use."""

from diffusers import DDIMScheduler

from l2c_ray.errors import ConfigError
from l2c_ray.sampling.ddim import DDIM
from l2c_ray.sampling.solver import Solver

SOLVERS: dict[str, type[DDIM]] = {DDIM.name: DDIM}


def make_solver(name: str, steps: int, scheduler: DDIMScheduler) -> Solver:
    """The solver `name` with `steps` evaluations on the noise schedule that the model was trained with.

    Raises:
        ConfigError: there is no such solver, or the noise schedule is too short for so many steps.
    """
    if name not in SOLVERS:
        raise ConfigError("sampler.name", f"there is no sampler {name!r}", f"take one of {', '.join(SOLVERS)}")
    if steps > (longest := scheduler.config.num_train_timesteps):
        raise ConfigError("sampler.steps", f"{steps} are more than the model's {longest} timesteps", "take fewer steps")
    return SOLVERS[name](scheduler, steps)
