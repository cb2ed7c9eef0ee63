"""Learner of the trajectory objective."""

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
from l2c_ray.learning.learner import Learner
from l2c_ray.learning.state import is_of_module, unpack_module
from l2c_ray.learning.trajectory.budget_curriculum import Stage, StageResult, make_curriculum
from l2c_ray.learning.trajectory.budget_router import BudgetRouter, table_of
from l2c_ray.learning.trajectory.coefficient_fitting import CoefficientFitting
from l2c_ray.learning.trajectory.mask_tightening import MaskTightening
from l2c_ray.learning.trajectory.noise_pool import NoisePool
from l2c_ray.learning.trajectory.rollout import require_steady_units
from l2c_ray.learning.trajectory.unit_costs import costs_by
from l2c_ray.learning.updates import Average, Update
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.sampling.loop import sample_images
from l2c_ray.sampling.solver import Solver
from l2c_ray.schedule import Table

_MASKS, _COEFFICIENTS, _SHARES_AND_ERRORS = "results.masks", "results.coefficients", "results.shares-and-errors"
"""Names of the stage results in a checkpoint."""


class TrajectoryLearner(Learner):
    """Compares the sampler's rollout from noise, guidance and drift included, with the baseline; needs no data.

    The loss is the logarithm of the final error plus a part of that of the mean error over all steps, so that the
    gradient stays strong where the error is small. The stages of a curriculum each tighten the mask to a share of
    their own, then fit the coefficients of that mask.
    """

    router: BudgetRouter

    def __init__(self, config: LearnConfig, model: CacheableTransformer, solver: Solver, rank: int = 0) -> None:
        """A learner that computes everything.

        Raises:
            ConfigError: a budget is less than what cannot be reused, there are fewer iterations than stages, the
                profile is of another model, or the model's units change their shape between steps.
        """
        super().__init__(config, model, solver, rank)
        costs, forecast = costs_by(config.router.profile, model), config.router.forecast
        self.router = BudgetRouter(solver.steps, costs, forecast=forecast).to(self._device)
        self._curriculum = make_curriculum(config.router, self.router.least_share, config.training.iterations)
        require_steady_units(model, solver)
        self._results = [StageResult(self.router.mask.clone(), self.router.coefficients.clone(), 1.0, 0.0)]
        """Where the run began, at the baseline or a warm start, then the result of each stage."""
        self._pipeline = Pipeline(model, solver, config.sampler.guidance)
        self.noise_pool = NoisePool(config, self._pipeline, rank)

    def update(self, average: Average) -> Update:
        stage = self._curriculum.next(self._results)
        update = self._update_rule(stage).update(average)
        if update.is_finite and stage.progress(self.iteration) == 1:
            self._end_stage()
        return update

    def start_from(self, tensors: Mapping[str, Tensor]) -> bool:
        """Takes the last mask if a budget is the limit, and tighter; an error limit needs errors, which are unknown."""
        if not is_of_module(tensors, self.router):
            return False
        mask, coefficients = (tensors[name][-1].to(self._device) for name in (_MASKS, _COEFFICIENTS))
        start = StageResult(mask, coefficients, tensors[_SHARES_AND_ERRORS][-1, 0].item(), math.nan)
        if self._curriculum.measures or start.share <= self._curriculum.next([start]).target:
            return False
        unpack_module(tensors, self.router)
        self.router.start_from(mask, coefficients)
        self._results = [replace(start, coefficients=self.router.coefficients.clone())]
        return True

    def tables(self) -> list[Table]:
        return [table_of(result.mask, result.coefficients) for result in self._curriculum.outcome(self._results)]

    def score_table(self) -> Tensor:
        return self.router.score_table()

    def state(self) -> dict[str, Tensor]:
        masks = torch.stack([result.mask for result in self._results])
        coefficients = torch.stack([result.coefficients for result in self._results])
        measured = torch.tensor([(result.share, result.error) for result in self._results], dtype=torch.float64)
        return super().state() | {_MASKS: masks, _COEFFICIENTS: coefficients, _SHARES_AND_ERRORS: measured}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_state(tensors)
        masks, coefficients = (tensors[name].to(self._device) for name in (_MASKS, _COEFFICIENTS))
        self._results = list(map(StageResult, masks, coefficients, *tensors[_SHARES_AND_ERRORS].T.tolist()))

    def _update_rule(self, stage: Stage) -> MaskTightening | CoefficientFitting:
        given = (self._config, self._pipeline, self.router, self.noise_pool, stage, self.iteration, self._rank)
        fitting = CoefficientFitting(*given)
        return fitting if fitting.is_due else MaskTightening(*given)

    def _end_stage(self) -> None:
        """Keeps the result, and goes to where the next stage starts."""
        mask, coefficients = self.router.mask.clone(), self.router.coefficients.clone()
        error = self._held_out_error() if self._curriculum.measures else math.nan
        self._results.append(StageResult(mask, coefficients, self.router.share, error))
        if len(self._results) <= self._curriculum.stages:
            start = self._curriculum.next(self._results).start
            self.router.start_from(start.mask, start.coefficients)

    def _mean_score(self) -> float:
        return self.router.mask.float().mean().item()

    def _held_out_error(self) -> float:
        """Mean squared error of the router's schedule to the baseline on held-out noise, the same on every worker."""
        table = table_of(self.router.mask, self.router.coefficients)
        errors = []
        for baseline in self.noise_pool.held_out():
            given = (self._model, self._solver, baseline.noise, baseline.labels, self._pipeline.guidance)
            errors.append(F.mse_loss(sample_images(*given, ScheduleExecutor(table)), baseline.samples[-1]).item())
        return statistics.fmean(errors)
