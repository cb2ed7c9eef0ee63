"""Learns from noise alone: the whole trajectory under the router is to end where the full run ends."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig
from l2c_ray.errors import ConfigError
from l2c_ray.learning.batch import Batch
from l2c_ray.learning.budget_router import BudgetRouter, table_of
from l2c_ray.learning.costs import costs_by
from l2c_ray.learning.course import Found, Phase, make_course
from l2c_ray.learning.learner import Learner, Lesson
from l2c_ray.learning.rollout import FullRun, require_steady_units, run_in_full
from l2c_ray.learning.state import unpack_module
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.loop import sample_images
from l2c_ray.sampling.solver import Solver
from l2c_ray.schedule import Table

_BEGUN, _TIGHTENED, _SETTLED = 0.1, 0.6, 0.7
"""Shares of a phase's iterations: up to the first, of the first phase alone, nothing is reused, so that what is given
up first is known well; then the share falls up to the second; from the third on the mask stays."""
_SLOWING = 1.5
"""Power of the time left by which the share falls: the slower, the tighter it is."""
_DIRECTIONS, _ROUNDS = 4, 3
"""Of the fit of the coefficients at the end of a phase."""
_ROUNDING = 1e-9
_MASKS, _COEFFICIENTS, _TOLD = "found.masks", "found.coefficients", "found.shares-and-errors"


class TrajectoryLearner(Learner):
    """Runs the sampler from noise, guidance included, with the student's own drift, and compares it with the full run.

    The loss is the logarithm of the error at the end, and a part of that of the mean error along the way: so the
    gradient is as strong where the error is small already. Forecast coefficients descend it. What to compute follows
    from what each unit is worth: the change of the final error if the unit's choice were the other one, by its
    gradient and, for the curvature, by what the change does to a random direction at the end (Hutchinson's estimate
    of the Gauss-Newton matrix's diagonal). The gradient alone would call every computed unit worthless: where nothing
    is wrong yet, nothing improves by computing.

    It does so in the phases of a course, each of which tightens to a share of its own and then fits the coefficients
    of its mask together.
    """

    router: BudgetRouter

    def __init__(self, config: LearnConfig, model: CacheableTransformer, solver: Solver, rank: int = 0) -> None:
        """Needs no data.

        Raises:
            ConfigError: a budget is less than what cannot be reused, there are too few iterations for all of them, the
                profile is of another model, or the model's units change their shape between steps.
        """
        super().__init__(config, model, solver, rank)
        costs, forecast = costs_by(config.router.profile, model), config.router.forecast
        self.router = BudgetRouter(solver.steps, costs, forecast=forecast).to(self._device)
        self._course = make_course(config.router, self.router.least_share)
        if config.training.iterations < self._course.phases:
            problem = f"are {config.training.iterations}, too few for {self._course.phases} phases"
            raise ConfigError("training.iterations", problem, "raise them")
        require_steady_units(model, solver)
        self._found = [Found(self.router.mask.clone(), self.router.coefficients.clone(), 1.0, 0.0)]
        """Where it began, which is the full run unless told otherwise, then where each phase ended."""
        self._pipeline = Pipeline(model, solver, config.sampler.guidance)
        self._full_runs: dict[int, FullRun] = {}

    def start_from(self, tensors: Mapping[str, Tensor]) -> bool:
        """Only from a mask of more compute than is wanted, and to a budget: nothing is known of its error."""
        mask, coefficients = (tensors[name][-1].to(self._device) for name in (_MASKS, _COEFFICIENTS))
        found = Found(mask, coefficients, tensors[_TOLD][-1, 0].item(), math.nan)
        if self._course.measures or found.share <= self._course.next([found]).target:
            return False
        unpack_module(tensors, self.router)
        self.router.start_from(mask, coefficients)
        self._found = [replace(found, coefficients=self.router.coefficients.clone())]
        return True

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
        training = self._config.training
        batch = Batch(
            self._pipeline,
            self._full_run(),
            self.router.mask,
            self.router.coefficients,
            along_the_way=training.along_the_way,
            images_at_once=training.images_at_once,
        )
        parts = self._what_to_refit(batch) if self._settled else self._what_to_choose(batch)
        return Lesson(batch.weighing.error, batch.weighing.loss, parts)

    def _what_to_choose(self, batch: Batch) -> list[Tensor]:
        """What every choice is worth, and where its coefficient leads, each [steps - 1, units]."""
        told = batch.choices(self._direction(0))
        worths = torch.where(self.router.mask, told.bends_by_gates, -told.bends_by_gates) - told.slopes_by_gates
        # Every batch counts alike, also one that is far off.
        size = worths.abs().sum() + torch.finfo(worths.dtype).tiny
        descent = [told.slopes_by_coefficients / size, told.bends_by_coefficients / size]
        return [worths / size, *descent, told.changes, told.slopes]

    def _what_to_refit(self, batch: Batch) -> list[Tensor]:
        """The gradient [steps - 1, units], the effects [workers, directions, images, steps - 1, units], and tallies."""
        gradient, mine = batch.coefficients_effects([self._direction(each) for each in range(1, _DIRECTIONS + 1)])
        # The mean over the workers leaves each its own place.
        workers = self._config.cluster.workers
        of_all = mine.new_zeros(workers, *mine.shape)
        of_all[self._rank] = mine * (workers / _DIRECTIONS) ** 0.5
        return [gradient, of_all, self._tallies(batch) * workers]

    def _tallies(self, batch: Batch) -> Tensor:
        """What the images tell about swaps, as `Swaps.tallies` but in single precision, as all that workers share."""
        tallies = torch.zeros_like(self.router.swaps.tallies, dtype=torch.float32)
        for number, mask in self.router.swaps.masks(self.router.mask):
            gains = batch.gains(mask)
            tallies[number] = torch.stack([gains.new_tensor(len(gains)), gains.sum(), gains.square().sum()])
        return tallies

    def _learn(self, parts: list[Tensor]) -> None:
        phase, done = self._course.next(self._found), self._done_of_phase(self.iteration)
        if self._settled:
            gradient, effects, tallies = parts
            self.router.note_for_refit(gradient, effects.flatten(0, 2))
            self.router.swaps.note(tallies)
            self._end_round()
        else:
            worths, gradient, curvature, changes, slopes = parts
            self.router.note(worths, changes, slopes)
            self.router.descend(gradient, curvature, self._config.training.learning_rate)
            self.router.choose(self._share(phase, done))
        if done == 1:
            self._end_phase()

    @property
    def _settled(self) -> bool:
        """Whether the mask stays, but for swaps, and its coefficients are fitted; without any it is chosen on."""
        if not self._config.router.forecast:
            return False
        target = self._course.next(self._found).target
        return self._done_of_phase(self.iteration) > _SETTLED and self.router.share <= target + _ROUNDING

    def _end_round(self) -> None:
        """Fits the coefficients if a round of it is over; then swaps are decided that it has measured, or proposed."""
        before, after = (
            math.floor(_ROUNDS * (self._done_of_phase(iteration) - _SETTLED) / (1 - _SETTLED) + _ROUNDING)
            for iteration in (self.iteration - 1, self.iteration)
        )
        if after == before:
            return
        self.router.refit_coefficients()
        if self.router.swaps.pending:
            self.router.swaps.settle(self.router.mask)
        elif after < _ROUNDS:
            self.router.propose_swaps()

    def _share(self, phase: Phase, done: float) -> float:
        """What may be computed when so much of a phase's iterations is done."""
        # What starts from a mask knows already what its units are worth.
        begun = _BEGUN if len(self._found) == 1 and phase.start.share == 1 else 0.0
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
            self.router.start_from(start.mask, start.coefficients)

    def _mean_score(self) -> float:
        return self.router.mask.float().mean().item()

    def _done_of_phase(self, iteration: int) -> float:
        """The share of this phase's iterations that is done after that one."""
        iterations, phases, phase = self._config.training.iterations, self._course.phases, len(self._found) - 1
        first, last = (-(-number * iterations // phases) for number in (phase, phase + 1))
        return (iteration + 1 - first) / (last - first)

    def _full_run(self) -> FullRun:
        """Of this iteration's images; they come again, and what they are compared with is made once."""
        number = self.iteration % -(-self._config.training.noises // self._config.training.batch_size)
        if number not in self._full_runs:
            self._full_runs[number] = self._run_in_full("noise", number, self._rank)
        return self._full_runs[number]

    def _run_in_full(self, purpose: str, number: int, rank: int) -> FullRun:
        generator = self._generator(purpose, number, rank)
        batch = self._config.training.batch_size
        labels = torch.randint(self._model.num_classes, (batch,), generator=generator)
        noise = torch.randn((batch, *self._model.image_shape), generator=generator)
        return run_in_full(self._pipeline, noise.to(self._device), labels.to(self._device))

    def _direction(self, number: int) -> Tensor:
        generator = self._generator(f"direction {number}", self.iteration, self._rank)
        shape = (self._config.training.batch_size, *self._model.image_shape)
        return torch.randn(shape, generator=generator).to(self._device)

    def _unseen_error(self) -> float:
        """Of what the router has learned, on noise that nothing is learned from: the same on every worker."""
        table = table_of(self.router.mask, self.router.coefficients)
        errors = []
        for number in range(-(-self._config.training.noises // self._config.training.batch_size)):
            full = self._run_in_full("unseen noise", number, 0)
            executor = ScheduleExecutor(table)
            guidance = self._pipeline.guidance
            images = sample_images(self._model, self._solver, full.noise, full.labels, guidance, executor)
            errors.append(F.mse_loss(images, full.samples[-1]).item())
        return statistics.fmean(errors)
