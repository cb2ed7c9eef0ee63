"""Learns from noise alone: the whole trajectory under the router is to end where the full run ends."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_ray.config.learn import LearnConfig
from l2c_ray.errors import ConfigError
from l2c_ray.learning.budget_router import BudgetRouter
from l2c_ray.learning.learner import Learner, Objective
from l2c_ray.models.base import Branch, CacheableTransformer, compute_all
from l2c_ray.models.macs import count_macs
from l2c_ray.sampling.loop import BranchOfStep, evaluate_guided, full_run
from l2c_ray.sampling.solver import Solver
from l2c_ray.schedule import Table

_FORECAST_RATE = 0.2
"""Learning rate of the forecast coefficients over that of the logits."""
_TIGHTENING = 0.6
"""Share of the iterations over which the budget goes from everything to what is wanted."""
_ALONG_THE_WAY = 0.2
"""Weight of the errors on the way beside that of the end."""


class TrajectoryLearner(Learner):
    """Runs the sampler from noise, guidance included, with the student's own drift, and compares it with the full run.

    The loss is the logarithm of the error at the end, and a fifth of that of the mean error along the way: so the
    gradient is as strong where the error is small already. All steps but the first may reuse, and the compute share
    of what runs is within the budget at every iteration, which tightens linearly.
    """

    router: BudgetRouter

    def __init__(
        self, config: LearnConfig, budget: float, model: CacheableTransformer, solver: Solver, rank: int = 0
    ) -> None:
        """Needs no data.

        Raises:
            ConfigError: the budget is less than what cannot be reused.
        """
        super().__init__(config, model, solver, rank)
        self._budget = budget
        self.router = BudgetRouter(solver.steps, count_macs(model).with_attention).to(self._device)
        least = self.router.least_share
        if budget < least:
            problem = f"{budget} is less than {least:.4f}, the share of step 0 and of what no schedule can skip"
            raise ConfigError("router.budget", problem, "raise it")
        rate = config.training.learning_rate
        self._optimizer = torch.optim.Adam(
            [
                {"params": [self.router.logits], "lr": rate},
                {"params": [self.router.coefficients], "lr": _FORECAST_RATE * rate},
            ]
        )

    def table(self) -> Table:
        return self.router.table(self._budget)

    def score_table(self) -> Tensor:
        return self.router.score_table()

    def _objective(self) -> Objective:
        noise, labels = self._draw_batch()
        with torch.no_grad():
            teacher = self._trajectory(noise, labels, full_run)
        gates = self.router.gates(self._share_now())
        student = self._trajectory(noise, labels, _Student(gates, self.router.coefficients))
        errors = torch.stack([F.mse_loss(mine, theirs) for mine, theirs in zip(student, teacher, strict=True)])
        loss = _log(errors[-1]) + _ALONG_THE_WAY * _log(errors.mean())
        return Objective(errors[-1], loss, [self.router.logits, self.router.coefficients])

    def _mean_score(self) -> float:
        with torch.no_grad():
            return self.router.gates(self._share_now()).mean().item()

    def _share_now(self) -> float:
        left = 1 - self.iteration / (_TIGHTENING * self._config.training.iterations)
        return self._budget + (1 - self._budget) * max(0.0, left)

    def _draw_batch(self) -> tuple[Tensor, Tensor]:
        generator = self._generator("batch", self.iteration, self._rank)
        count = self._config.training.batch_size
        labels = torch.randint(self._model.num_classes, (count,), generator=generator)
        noise = torch.randn((count, *self._model.image_shape), generator=generator)
        return noise.to(self._device), labels.to(self._device)

    def _trajectory(self, noise: Tensor, labels: Tensor, branch_of_step: BranchOfStep) -> list[Tensor]:
        """The samples after every step."""
        samples = []
        sample, advance = noise, self._solver.begin()
        for step, timestep in enumerate(self._solver.timesteps):
            branch = branch_of_step(step)
            guidance = self._config.sampler.guidance
            output = evaluate_guided(self._model, sample, timestep, labels, guidance, branch)
            sample = advance(step, sample, output)
            samples.append(sample)
        return samples


class _Student:
    """The branches of one trajectory: what an executor would give, differentiable in gates and coefficients.

    Every unit is computed, also one that is reused, because how much it would help decides about its gate.
    """

    def __init__(self, gates: Tensor, coefficients: Tensor) -> None:
        self._gates = gates
        self._coefficients = coefficients
        self._last: dict[int, Tensor] = {}
        self._before: dict[int, Tensor] = {}

    def __call__(self, step: int) -> Branch:
        return self._keep_all if step == 0 else lambda unit, compute: self._gated(step - 1, unit, compute)

    def _keep_all(self, unit: int, compute: Callable[[], Tensor]) -> Tensor:
        self._last[unit] = compute_all(unit, compute)
        return self._last[unit]

    def _gated(self, row: int, unit: int, compute: Callable[[], Tensor]) -> Tensor:
        gate, fresh, last = self._gates[row, unit], compute(), self._last[unit]
        before = self._before.get(unit, last)
        forecast = last + self._coefficients[row, unit] * (last - before)
        self._last[unit] = torch.lerp(last, fresh, gate)
        self._before[unit] = torch.lerp(before, last, gate.detach())
        return torch.lerp(forecast, fresh, gate)


def _log(error: Tensor) -> Tensor:
    return torch.log(error + torch.finfo(error.dtype).tiny)
