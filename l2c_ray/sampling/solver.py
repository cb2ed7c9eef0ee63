"""Base of all solvers: a list of model timesteps, and the update that follows each evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from l2c_ray.schedule import Guidance, SamplerIdentity

Advance = Callable[[int, Tensor, Tensor], Tensor]
"""(step, sample, model_output) -> the sample that step `step + 1` is evaluated on; after the last step, the image.

`sample` [batch, channels, height, width] is what the step was evaluated on. Channels of the output beyond the
sample's (a learned variance) are ignored.
"""


class Solver(ABC):
    """A deterministic sampler of n model evaluations; step k is the k-th of them, 0 the noisiest."""

    name: str
    """Name in configs and schedules, for instance `ddim`."""
    order: int
    """Model evaluations per update."""
    timesteps: tuple[float, ...]
    """The model's timestep at each step, in sampling order."""

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def identity(self, guidance: Guidance) -> SamplerIdentity:
        """The record of this solver and guidance in a schedule."""
        return SamplerIdentity(
            name=self.name, order=self.order, steps=self.steps, timesteps=self.timesteps, guidance=guidance
        )

    def cache_steps(self, *, shifted: bool = True) -> tuple[int, ...]:
        """The steps that may reuse in the paper's method: every other evaluation, each after one that computes.

        Args:
            shifted: with two evaluations per update, the first of them reuses from the second update on, and the
                second, which the update's result depends on, computes. If False the second reuses.
        """
        return tuple(range(self.order if shifted else 1, self.steps, 2))

    def training_timestep(self, step: int) -> float:
        """The training timestep of the model that is nearest to the timestep of `step`."""
        return self.timesteps[step]

    @abstractmethod
    def begin(self) -> Advance:
        """The update function of one trajectory, which may keep state: to be called step by step."""

    @abstractmethod
    def add_noise(self, clean: Tensor, noise: Tensor, step: int) -> Tensor:
        """The forward process q(x_t | x_0) at the timestep of `step`; all tensors [batch, channels, height, width]."""
