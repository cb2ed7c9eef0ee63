"""Learns from noise alone: the whole trajectory under the router is to end where the full run ends."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.config.learn import LearnConfig
from l2c_ray.errors import ConfigError
from l2c_ray.learning.budget_router import BudgetRouter, table_of
from l2c_ray.learning.costs import costs_by
from l2c_ray.learning.course import Found, Phase, make_course
from l2c_ray.learning.learner import Learner, Lesson
from l2c_ray.learning.student import Student
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.loop import full_run, sample_images, trajectory
from l2c_ray.sampling.solver import Solver
from l2c_ray.schedule import Table

_BEGUN, _TIGHTENED, _SETTLED = 0.1, 0.6, 0.8
"""Shares of a phase's iterations: up to the first, of the first phase alone, nothing is reused, so that what is given
up first is known well; then the share falls up to the second; from the third on the mask stays."""
_SLOWING = 1.5
"""Power of the time left by which the share falls: the slower, the tighter it is."""
_LAST_RATE = 0.1
"""Of the learning rate, which falls linearly while the mask stays."""
_ALONG_THE_WAY = 0.2
"""Weight of the errors on the way beside that of the end."""
_MASKS, _COEFFICIENTS, _TOLD = "found.masks", "found.coefficients", "found.shares-and-errors"


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

    It does so in the phases of a course, each of which tightens to a share of its own.
    """

    router: BudgetRouter

    def __init__(self, config: LearnConfig, model: CacheableTransformer, solver: Solver, rank: int = 0) -> None:
        """Needs no data.

        Raises:
            ConfigError: a budget is less than what cannot be reused, there are too few iterations for all of them, or
                the profile is of another model.
        """
        super().__init__(config, model, solver, rank)
        self.router = BudgetRouter(solver.steps, costs_by(config.router.profile, model)).to(self._device)
        self._course = make_course(config.router, self.router.least_share)
        if config.training.iterations < self._course.phases:
            problem = f"are {config.training.iterations}, too few for {self._course.phases} phases"
            raise ConfigError("training.iterations", problem, "raise them")
        self._found = [Found(self.router.mask.clone(), self.router.coefficients.clone(), 1.0, 0.0)]
        """The full run, then where each phase ended."""
        self._full_runs: dict[int, _FullRun] = {}

    def tables(self) -> list[Table]:
        return [table_of(found.mask, found.coefficients) for found in self._course.results(self._found)]

    def score_table(self) -> Tensor:
        return self.router.score_table()

    def state(self) -> dict[str, Tensor]:
        masks = torch.stack([found.mask for found in self._found])
        coefficients = torch.stack([found.coefficients for found in self._found])
        told = torch.tensor([(found.share, found.error) for found in self._found], dtype=torch.float64)
        return super().state() | {_MASKS: masks, _COEFFICIENTS: coefficients, _TOLD: told}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_state(tensors)
        masks, coefficients = (tensors[name].to(self._device) for name in (_MASKS, _COEFFICIENTS))
        self._found = list(map(Found, masks, coefficients, *tensors[_TOLD].T.tolist()))

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
        phase, done = self._course.next(self._found), self._done_of_phase()
        settled = max(0.0, (done - _SETTLED) / (1 - _SETTLED))
        rate = self._config.training.learning_rate * (1 - (1 - _LAST_RATE) * settled)
        self.router.note(worths, changes, slopes)
        self.router.descend(gradient, curvature, rate)
        if not settled or self.router.share > phase.target:
            self.router.choose(self._share(phase, done))
        if done == 1:
            self._end_phase()

    def _share(self, phase: Phase, done: float) -> float:
        """What may be computed when so much of a phase's iterations is done."""
        begun = 0.0 if len(self._found) > 1 else _BEGUN
        left = (_TIGHTENED - done) / (_TIGHTENED - begun)
        share: float = phase.target + (phase.start.share - phase.target) * min(1.0, max(0.0, left)) ** _SLOWING
        return share

    def _end_phase(self) -> None:
        """Notes what was found, and goes to where the next phase starts."""
        mask, coefficients = self.router.mask.clone(), self.router.coefficients.clone()
        error = self._unseen_error() if self._course.measures else math.nan
        self._found.append(Found(mask, coefficients, self.router.share, error))
        if len(self._found) <= self._course.phases:
            start = self._course.next(self._found).start
            self.router.mask.copy_(start.mask)
            self.router.coefficients.copy_(start.coefficients)

    def _mean_score(self) -> float:
        return self.router.mask.float().mean().item()

    def _done_of_phase(self) -> float:
        """The share of a phase's iterations that is done after this one."""
        iterations, phases, phase = self._config.training.iterations, self._course.phases, len(self._found) - 1
        first, last = (-(-number * iterations // phases) for number in (phase, phase + 1))
        return (self.iteration + 1 - first) / (last - first)

    def _full_run(self) -> _FullRun:
        """Of this iteration's images; they come again, and what they are compared with is made once."""
        number = self.iteration % -(-self._config.training.noises // self._config.training.batch_size)
        if number not in self._full_runs:
            self._full_runs[number] = self._run_in_full("noise", number, self._rank)
        return self._full_runs[number]

    @torch.no_grad()
    def _run_in_full(self, purpose: str, number: int, rank: int) -> _FullRun:
        generator = self._generator(purpose, number, rank)
        batch = self._config.training.batch_size
        labels = torch.randint(self._model.num_classes, (batch,), generator=generator).to(self._device)
        noise = torch.randn((batch, *self._model.image_shape), generator=generator).to(self._device)
        guidance = self._config.sampler.guidance
        samples = list(trajectory(self._model, self._solver, noise, labels, guidance, full_run))
        return _FullRun(noise, labels, samples)

    def _unseen_error(self) -> float:
        """Of what the router has learned, on noise that nothing is learned from: the same on every worker."""
        table = table_of(self.router.mask, self.router.coefficients)
        guidance = self._config.sampler.guidance
        errors = []
        for number in range(-(-self._config.training.noises // self._config.training.batch_size)):
            full = self._run_in_full("unseen noise", number, 0)
            executor = ScheduleExecutor(table)
            images = sample_images(self._model, self._solver, full.noise, full.labels, guidance, executor)
            errors.append(F.mse_loss(images, full.samples[-1]).item())
        return statistics.fmean(errors)


def _log(error: Tensor) -> Tensor:
    return torch.log(error + torch.finfo(error.dtype).tiny)
