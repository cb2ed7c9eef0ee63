"""DPM-Solver-2, singlestep and in data prediction (arXiv 2206.00927, 2211.01095): the sampler of the U-ViT authors."""

import math

import numpy as np
from torch import Tensor

from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.solver import Advance, Solver


class DPMSolver2(Solver):
    """Updates of two evaluations, uniform in time from 1 to 1/N, where N is the number of training timesteps.

    Log-alpha is linear in time between the training timesteps; the midpoint of an update halves its step in
    lambda = log(alpha / sigma), and its time comes from inverting the same interpolation. Diffusers' scheduler of
    this name takes midpoints from a list of whole timesteps instead, which gives other numbers.
    """

    name = "dpm-solver-2"
    order = 2

    def __init__(self, model: CacheableTransformer, steps: int) -> None:
        self._alphas_bar = model.scheduler.alphas_cumprod.double().numpy()
        count = len(self._alphas_bar)
        knots, log_alphas = np.arange(1, count + 1) / count, np.log(self._alphas_bar) / 2
        times = np.linspace(1, 1 / count, steps // 2 + 1)
        ends = _log_snr(np.interp(times, knots, log_alphas))
        middles = (ends[:-1] + ends[1:]) / 2
        # log alpha of a lambda, since alpha and sigma lie on the unit circle.
        log_alphas_there = -np.logaddexp(0, -2 * middles) / 2
        middle_times = np.interp(log_alphas_there, log_alphas[::-1], knots[::-1])

        self._first_timestep = model.first_timestep
        evaluated = np.stack([times[:-1], middle_times], axis=1).ravel()
        self.timesteps = tuple(float(time * count) + model.first_timestep - 1 for time in evaluated)
        # Some lie in the middle of two, and fall to that one to which the authors' single precision takes them.
        self._positions = [round(float(time) * count) - 1 for time in evaluated.astype(np.float32)]
        self._lambdas: list[float] = np.append(np.stack([ends[:-1], middles], axis=1).ravel(), ends[-1]).tolist()

    def training_timestep(self, step: int) -> float:
        return float(self._positions[step] + self._first_timestep)

    def begin(self) -> Advance:
        start_of_update: list[Tensor] = []

        def advance(step: int, sample: Tensor, model_output: Tensor) -> Tensor:
            clean = self._predicted_clean(step, sample, model_output)
            if step % 2 == 0:
                start_of_update[:] = [sample]
                return self._towards_clean(step, step + 1, sample, clean)
            return self._towards_clean(step - 1, step + 1, start_of_update[0], clean)

        return advance

    def add_noise(self, clean: Tensor, noise: Tensor, step: int) -> Tensor:
        alpha_bar = float(self._alphas_bar[self._positions[step]])
        noisy: Tensor = alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * noise
        return noisy

    def _predicted_clean(self, step: int, sample: Tensor, model_output: Tensor) -> Tensor:
        alpha, sigma = self._alpha_sigma(step)
        clean: Tensor = (sample - sigma * model_output[:, : sample.shape[1]]) / alpha
        return clean

    def _towards_clean(self, here: int, there: int, sample: Tensor, clean: Tensor) -> Tensor:
        """First-order update towards a predicted clean image (arXiv 2211.01095, equation 9)."""
        (_, sigma), (alpha_there, sigma_there) = self._alpha_sigma(here), self._alpha_sigma(there)
        decay = math.expm1(self._lambdas[here] - self._lambdas[there])
        updated: Tensor = (sigma_there / sigma) * sample - (alpha_there * decay) * clean
        return updated

    def _alpha_sigma(self, step: int) -> tuple[float, float]:
        """Alpha and sigma of the forward process at a step, or after the last one."""
        alpha_squared = 1 / (1 + math.exp(-2 * self._lambdas[step]))
        return math.sqrt(alpha_squared), math.sqrt(1 - alpha_squared)


def _log_snr(log_alphas: np.ndarray) -> np.ndarray:
    """Half the log signal-to-noise ratio, lambda = log(alpha / sigma), [steps]."""
    lambdas: np.ndarray = log_alphas - np.log(-np.expm1(2 * log_alphas)) / 2
    return lambdas
