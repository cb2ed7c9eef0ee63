"""Solvers whose updates are diffusers' own: every trajectory gets a scheduler of its own, since they keep state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from l2c_ray.errors import ConfigError
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.solver import Advance, Solver

if TYPE_CHECKING:
    from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler


class DPMSolverPP2M(Solver):
    """DPM-Solver++ 2M (arXiv 2211.01095, algorithm 2): one evaluation an update, extrapolated from the one before."""

    name = "dpm-solver-pp-2m"
    order = 1

    def __init__(self, model: CacheableTransformer, steps: int) -> None:
        self._config = model.scheduler.config
        scheduler = self._scheduler()
        scheduler.set_timesteps(steps)
        self._alphas_cumprod = scheduler.alphas_cumprod
        # For some step counts diffusers' `trailing` rounds one timestep too many into the list, and it is -1.
        self._positions = scheduler.timesteps.tolist()[:steps]
        if len(set(self._positions)) < steps:
            problem = f"{steps} steps of {self.name} meet one timestep of {model.name} twice"
            raise ConfigError("sampler.steps", problem, "take fewer steps")
        self.timesteps = tuple(float(position + model.first_timestep) for position in self._positions)

    def begin(self) -> Advance:
        scheduler = self._scheduler()
        scheduler.set_timesteps(timesteps=self._positions)

        def advance(step: int, sample: Tensor, model_output: Tensor) -> Tensor:
            noise = model_output[:, : sample.shape[1]]
            updated: Tensor = scheduler.step(noise, scheduler.timesteps[step], sample).prev_sample
            return updated

        return advance

    def add_noise(self, clean: Tensor, noise: Tensor, step: int) -> Tensor:
        alpha_bar = float(self._alphas_cumprod[self._positions[step]])
        noisy: Tensor = alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * noise
        return noisy

    def _scheduler(self) -> DPMSolverMultistepScheduler:
        from diffusers import DPMSolverMultistepScheduler

        return DPMSolverMultistepScheduler.from_config(
            self._config, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
        )


class FlowEuler(Solver):
    """Euler's method on the straight paths of flow matching (arXiv 2210.02747, 2403.03206)."""

    name = "flow-euler"
    order = 1

    def __init__(self, model: CacheableTransformer, steps: int) -> None:
        self._config = model.scheduler.config
        self._steps = steps
        scheduler = self._scheduler()
        self.timesteps = tuple(float(timestep) for timestep in scheduler.timesteps)
        self._sigmas: list[float] = scheduler.sigmas.tolist()

    def begin(self) -> Advance:
        scheduler = self._scheduler()

        def advance(step: int, sample: Tensor, model_output: Tensor) -> Tensor:
            velocity = model_output[:, : sample.shape[1]]
            updated: Tensor = scheduler.step(velocity, scheduler.timesteps[step], sample).prev_sample
            return updated

        return advance

    def add_noise(self, clean: Tensor, noise: Tensor, step: int) -> Tensor:
        return torch.lerp(clean, noise, self._sigmas[step])

    def _scheduler(self) -> FlowMatchEulerDiscreteScheduler:
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler = FlowMatchEulerDiscreteScheduler.from_config(self._config)
        scheduler.set_timesteps(self._steps)
        scheduler.set_begin_index(0)
        return scheduler
