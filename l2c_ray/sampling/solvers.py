"""Solvers by the names in configs and schedules, looked up without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from l2c_ray.errors import ConfigError

if TYPE_CHECKING:
    from l2c_ray.models.base import CacheableTransformer
    from l2c_ray.sampling.solver import Solver


@dataclass(frozen=True)
class _Entry:
    make: Callable[[CacheableTransformer, int], Solver]
    scheduler: str
    """Class name of the diffusers scheduler that a model must have been trained with."""
    evaluations_an_update: int = 1


def make_solver(name: str, steps: int, model: CacheableTransformer) -> Solver:
    """The solver `name` with `steps` evaluations on the noise schedule that the model was trained with.

    Raises:
        ConfigError: there is no such solver, it is not for what the model predicts, its updates do not divide the
            steps, or the noise schedule is too short for so many.
    """
    require(name, steps)
    entry, scheduler = SOLVERS[name], type(model.scheduler).__name__
    if scheduler != entry.scheduler:
        fitting = [other for other, given in SOLVERS.items() if scheduler == given.scheduler]
        problem = f"{name} does not sample what {model.name} predicts"
        raise ConfigError("sampler.name", problem, f"take one of {', '.join(fitting)}")
    if steps > (longest := model.scheduler.config.num_train_timesteps):
        raise ConfigError("sampler.steps", f"{steps} are more than the model's {longest} timesteps", "take fewer steps")
    return entry.make(model, steps)


def require(name: str, steps: int) -> None:
    """Refuses a solver and number of steps that fit no model.

    Raises:
        ConfigError: there is no such solver, or its updates do not divide the steps.
    """
    if name not in SOLVERS:
        raise ConfigError("sampler.name", f"there is no sampler {name!r}", f"take one of {', '.join(SOLVERS)}")
    if steps % (evaluations := SOLVERS[name].evaluations_an_update):
        problem = f"{steps} evaluations do not make whole updates of {evaluations}"
        raise ConfigError("sampler.steps", problem, f"take a multiple of {evaluations}")


def _ddim(model: CacheableTransformer, steps: int) -> Solver:
    from l2c_ray.sampling.ddim import DDIM

    return DDIM(model, steps)


def _dpm_solver_2(model: CacheableTransformer, steps: int) -> Solver:
    from l2c_ray.sampling.dpm_solver_2 import DPMSolver2

    return DPMSolver2(model, steps)


def _dpm_solver_pp_2m(model: CacheableTransformer, steps: int) -> Solver:
    from l2c_ray.sampling.from_diffusers import DPMSolverPP2M

    return DPMSolverPP2M(model, steps)


def _flow_euler(model: CacheableTransformer, steps: int) -> Solver:
    from l2c_ray.sampling.from_diffusers import FlowEuler

    return FlowEuler(model, steps)


_NOISE, _VELOCITY = "DDIMScheduler", "FlowMatchEulerDiscreteScheduler"
"""Scheduler classes, which tell whether a model predicts noise or velocity."""

SOLVERS = {
    "ddim": _Entry(_ddim, _NOISE),
    "dpm-solver-2": _Entry(_dpm_solver_2, _NOISE, evaluations_an_update=2),
    "dpm-solver-pp-2m": _Entry(_dpm_solver_pp_2m, _NOISE),
    "flow-euler": _Entry(_flow_euler, _VELOCITY),
}
