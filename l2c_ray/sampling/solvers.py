"""Solvers by the names that configs and schedules use."""

from collections.abc import Callable
from dataclasses import dataclass

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from l2c_ray.errors import ConfigError
from l2c_ray.models.base import CacheableTransformer, NoiseScheduler
from l2c_ray.sampling.ddim import DDIM
from l2c_ray.sampling.dpm_solver_2 import DPMSolver2
from l2c_ray.sampling.from_diffusers import DPMSolverPP2M, FlowEuler
from l2c_ray.sampling.solver import Solver


@dataclass(frozen=True)
class _Entry:
    make: Callable[[CacheableTransformer, int], Solver]
    scheduler: type[NoiseScheduler]
    """Of the models that it can sample."""
    evaluations_an_update: int = 1


SOLVERS = {
    DDIM.name: _Entry(DDIM, DDIMScheduler),
    DPMSolver2.name: _Entry(DPMSolver2, DDIMScheduler, evaluations_an_update=DPMSolver2.order),
    DPMSolverPP2M.name: _Entry(DPMSolverPP2M, DDIMScheduler),
    FlowEuler.name: _Entry(FlowEuler, FlowMatchEulerDiscreteScheduler),
}


def make_solver(name: str, steps: int, model: CacheableTransformer) -> Solver:
    """The solver `name` with `steps` evaluations on the noise schedule that the model was trained with.

    Raises:
        ConfigError: there is no such solver, it is not for what the model predicts, its updates do not divide the
            steps, or the noise schedule is too short for so many.
    """
    if name not in SOLVERS:
        raise ConfigError("sampler.name", f"there is no sampler {name!r}", f"take one of {', '.join(SOLVERS)}")
    entry = SOLVERS[name]
    if not isinstance(model.scheduler, entry.scheduler):
        fitting = [other for other, given in SOLVERS.items() if isinstance(model.scheduler, given.scheduler)]
        problem = f"{name} does not sample what {model.name} predicts"
        raise ConfigError("sampler.name", problem, f"take one of {', '.join(fitting)}")
    if steps % entry.evaluations_an_update:
        problem = f"{steps} evaluations do not make whole updates of {entry.evaluations_an_update}"
        raise ConfigError("sampler.steps", problem, f"take a multiple of {entry.evaluations_an_update}")
    if steps > (longest := model.scheduler.config.num_train_timesteps):
        raise ConfigError("sampler.steps", f"{steps} are more than the model's {longest} timesteps", "take fewer steps")
    return entry.make(model, steps)
