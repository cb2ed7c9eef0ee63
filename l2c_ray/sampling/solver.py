"""What a solver is: a list of model timesteps, and the update that follows each evaluation."""

from abc import ABC, abstractmethod

from torch import Tensor

from l2c_ray.schedule import SamplerIdentity


class Solver(ABC):
    """A deterministic sampler of n model evaluations; step k is the k-th of them, 0 the noisiest."""

    name: str
    """As in configs and schedules, for instance `ddim`."""
    order: int
    """Model evaluations per update."""
    timesteps: tuple[float, ...]
    """The model's timestep at each step, in sampling order."""

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def identity(self, guidance_scale: float) -> SamplerIdentity:
        """How a schedule names this solver under this guidance."""
        return SamplerIdentity(
            name=self.name,
            order=self.order,
            steps=self.steps,
            timesteps=self.timesteps,
            guidance_scale=guidance_scale,
        )

    @abstractmethod
    def advance(self, step: int, sample: Tensor, model_output: Tensor) -> Tensor:
        """The sample that step `step + 1` is evaluated on (after the last step: the finished image).

        Args:
            step: 0..steps-1.
            sample: what step `step` was evaluated on, [batch, channels, height, width].
            model_output: of that evaluation; channels beyond the sample's (a learned variance) are ignored.
        """

    @abstractmethod
    def add_noise(self, clean: Tensor, noise: Tensor, step: int) -> Tensor:
        """The forward process q(x_t | x_0) at the timestep of `step`; all tensors [batch, channels, height, width]."""
