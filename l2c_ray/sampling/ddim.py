"""DDIM (arXiv 2010.02502) with eta 0 on the noise schedule of a diffusers `DDIMScheduler`."""

import copy

import torch
from torch import Tensor

from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.solver import Advance, Solver


class DDIM(Solver):
    """Equation 12 of the DDIM paper at sigma 0.

    The scheduler gives the timesteps and alphas-bar. The update itself is made here, between neighbours of that
    list: the scheduler's own always goes `1000 // n` timesteps down, which is wrong for any spacing but `leading`.
    """

    name = "ddim"
    order = 1

    def __init__(self, model: CacheableTransformer, steps: int) -> None:
        scheduler = copy.deepcopy(model.scheduler)
        scheduler.set_timesteps(steps)
        # For some step counts diffusers' `trailing` rounds one timestep too many into the list, and it is -1.
        positions = scheduler.timesteps.cpu()[:steps]
        self.timesteps = tuple(float(position + model.first_timestep) for position in positions)
        alphas_bar = scheduler.alphas_cumprod.double()[positions]
        # The last update ends at the clean image, where alpha-bar is 1.
        self._alphas_bar: list[float] = torch.cat([alphas_bar, torch.ones(1, dtype=torch.float64)]).tolist()

    def begin(self) -> Advance:
        return self._advance

    def _advance(self, step: int, sample: Tensor, model_output: Tensor) -> Tensor:
        here, there = self._alphas_bar[step], self._alphas_bar[step + 1]
        noise = model_output[:, : sample.shape[1]]
        clean = (sample - (1 - here) ** 0.5 * noise) / here**0.5
        updated: Tensor = there**0.5 * clean + (1 - there) ** 0.5 * noise
        return updated

    def add_noise(self, clean: Tensor, noise: Tensor, step: int) -> Tensor:
        alpha_bar = self._alphas_bar[step]
        noisy: Tensor = alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * noise
        return noisy
