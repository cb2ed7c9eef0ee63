"""Learns from noise alone: the whole trajectory under the router is to end where the full run ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_ray.config.learn import LearnConfig
from l2c_ray.errors import ConfigError
from l2c_ray.learning.budget_router import BudgetRouter, table_of
from l2c_ray.learning.learner import Learner, Lesson
from l2c_ray.learning.student import Student
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.macs import count_macs
from l2c_ray.sampling.loop import full_run, trajectory
from l2c_ray.sampling.solver import Solver
from l2c_ray.schedule import Table

_BEGUN, _TIGHTENED, _SETTLED = 0.1, 0.6, 0.8
"""Shares of a budget's iterations: up to the first, of the first budget alone, nothing is reused, so that what is given
up first is known well; then the budget tightens up to the second; from the third on the mask stays."""
_SLOWING = 1.5
"""Power of the time left by which a budget tightens: the slower, the tighter it is."""
_LAST_RATE = 0.1
"""Of the learning rate, which falls linearly while the mask stays."""
_ALONG_THE_WAY = 0.2
"""Weight of the errors on the way beside that of the end."""
_MASKS, _COEFFICIENTS = "learned.masks", "learned.coefficients"


@dataclass(frozen=True)
class _FullRun:
    """What the student is compared with."""

    noise: Tensor
    labels: Tensor
    samples: list[Tensor]
    """After every step."""


class TrajectoryLearner(Learner):
    """Runs the sampler from noise, guidance included, with the student's own drift, and compares it with the full run.

    The loss is the logarithm of the error at the end, and a fifth of that of the mean error along the way: so the
    gradient is as strong where the error is small already. Forecast coefficients descend it. What to compute follows
    from what each unit is worth: the change of the final error if the unit's choice were the other one, by its
    gradient and, for the curvature, by what the change does to a random direction at the end (Hutchinson's estimate
    of the Gauss-Newton matrix's diagonal). The gradient alone would call every computed unit worthless: where nothing
    is wrong yet, nothing improves by computing.

    Several budgets are learned one after another, from loose to tight, each from where the one before ended.
    """

    router: BudgetRouter

    def __init__(
        self, config: LearnConfig, budgets: Sequence[float], model: CacheableTransformer, solver: Solver, rank: int = 0
    ) -> None:
        """Needs no data.

        Args:
            budgets: shares of the full run's multiply-accumulates, falling.

        Raises:
            ConfigError: a budget is less than what cannot be reused.
        """
        super().__init__(config, model, solver, rank)
        self.router = BudgetRouter(solver.steps, count_macs(model).with_attention).to(self._device)
        least = self.router.least_share
        if budgets[-1] < least:
            problem = f"{budgets[-1]} is less than {least:.4f}, the share of step 0 and of what no schedule can skip"
            raise ConfigError("router.budget", problem, "raise it")
        self._budgets = budgets
        self._learned: list[tuple[Tensor, Tensor]] = []
        """Mask and coefficients at the end of each budget's iterations."""
        self._full_runs: dict[int, _FullRun] = {}

    def tables(self) -> list[Table]:
        return [table_of(mask, coefficients) for mask, coefficients in self._learned]

    def score_table(self) -> Tensor:
        return self.router.score_table()

    def state(self) -> dict[str, Tensor]:
        learned = {}
        if self._learned:
            masks, coefficients = map(torch.stack, zip(*self._learned, strict=True))
            learned = {_MASKS: masks, _COEFFICIENTS: coefficients}
        return super().state() | learned

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_state(tensors)
        self._learned = []
        if _MASKS in tensors:
            masks, coefficients = (tensors[name].to(self._device) for name in (_MASKS, _COEFFICIENTS))
            self._learned = list(zip(masks, coefficients, strict=True))

    def _study(self) -> Lesson:
        teacher = self._full_run()
        images, guidance = len(teacher.labels), self._config.sampler.guidance
        halves = 2 if guidance.needs_unlabelled else 1
        student = Student(self.router.mask, self.router.coefficients, halves * images)
        samples = list(trajectory(self._model, self._solver, teacher.noise, teacher.labels, guidance, student))
        errors = torch.stack([F.mse_loss(mine, full) for mine, full in zip(samples, teacher.samples, strict=True)])
        loss = _log(errors[-1]) + _ALONG_THE_WAY * _log(errors.mean())

        choices = [student.gates, student.coefficients]
        # Where nothing is reused no coefficient has a part in the loss.
        of_loss = torch.autograd.grad(loss, choices, retain_graph=True, materialize_grads=True)
        direction = torch.randn(samples[-1].shape, generator=self._generator("direction", self.iteration, self._rank))
        of_end = torch.autograd.grad(samples[-1], choices, direction.to(self._device), materialize_grads=True)
        slope, gradient = (errors[-1].detach() * each.sum(-1) for each in of_loss)
        by_image = (each.unflatten(-1, (halves, images)).sum(-2) for each in of_end)
        bend, curvature = (each.square().sum(-1) / samples[-1].numel() for each in by_image)
        worths = torch.where(self.router.mask, bend - slope, -bend - slope)
        # Every batch counts alike, also one with an image that is far off.
        size = worths.abs().sum() + torch.finfo(worths.dtype).tiny
        learned = [worths / size, gradient / size, curvature / size, student.changes, student.slopes]
        return Lesson(errors[-1], loss, learned)

    def _learn(self, parts: list[Tensor]) -> None:
        worths, gradient, curvature, changes, slopes = parts
        budget, done = self._place(self.iteration)
        settled = max(0.0, (done - _SETTLED) / (1 - _SETTLED))
        rate = self._config.training.learning_rate * (1 - (1 - _LAST_RATE) * settled)
        self.router.note(worths, changes, slopes)
        self.router.descend(gradient, curvature, rate)
        if not settled or self.router.share > self._budgets[budget]:
            self.router.choose(self._share(budget, done))
        if done == 1:
            self._learned.append((self.router.mask.clone(), self.router.coefficients.clone()))

    def _share(self, budget: int, done: float) -> float:
        """What may be computed when so much of a budget's iterations is done."""
        tightest = self._budgets[budget]
        loosest, begun = (self._budgets[budget - 1], 0.0) if budget else (1.0, _BEGUN)
        left = (_TIGHTENED - done) / (_TIGHTENED - begun)
        share: float = tightest + (loosest - tightest) * min(1.0, max(0.0, left)) ** _SLOWING
        return share

    def _mean_score(self) -> float:
        return self.router.mask.float().mean().item()

    def _place(self, iteration: int) -> tuple[int, float]:
        """The number of the budget that an iteration is spent on, and the share of its iterations that is then done."""
        iterations, budgets = self._config.training.iterations, len(self._budgets)
        budget = iteration * budgets // iterations
        first, last = (-(-number * iterations // budgets) for number in (budget, budget + 1))
        return budget, (iteration + 1 - first) / (last - first)

    def _full_run(self) -> _FullRun:
        """Of this iteration's images; they come again, and what they are compared with is made once."""
        batch = self._config.training.batch_size
        number = self.iteration % -(-self._config.training.noises // batch)
        if number not in self._full_runs:
            generator = self._generator("noise", number, self._rank)
            labels = torch.randint(self._model.num_classes, (batch,), generator=generator).to(self._device)
            noise = torch.randn((batch, *self._model.image_shape), generator=generator).to(self._device)
            with torch.no_grad():
                guidance = self._config.sampler.guidance
                samples = list(trajectory(self._model, self._solver, noise, labels, guidance, full_run))
            self._full_runs[number] = _FullRun(noise, labels, samples)
        return self._full_runs[number]


def _log(error: Tensor) -> Tensor:
    return torch.log(error + torch.finfo(error.dtype).tiny)
