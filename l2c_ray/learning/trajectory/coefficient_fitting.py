"""The second part of a stage: the mask is fixed but for measured swaps, and its coefficients are fitted together."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from l2c_ray.learning.trajectory.batch import Batch
from l2c_ray.learning.trajectory.update_rule import TrajectoryUpdateRule
from l2c_ray.learning.updates import Update

_BEGINS = 0.7
"""Progress of a stage after which it is due."""
_ROUNDS = 3
"""Fits in a stage, each with the statistics of as many iterations."""
_DIRECTIONS = 4
"""Random directions per iteration."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class FittingUpdate(Update):
    """Statistics of a batch under a fixed mask."""

    gradient: Tensor
    """Gradient of the final error by the coefficients, [steps - 1, units]."""
    jacobian_rows: Tensor
    """[workers, directions, images, steps - 1, units]: scaled rows of one worker, zeros in the places of the others,
    so that the mean over workers holds the rows of all."""
    swap_tallies: Tensor
    """As in `Swaps`, in single precision and scaled by the number of workers, [swaps, 3]."""


class CoefficientFitting(TrajectoryUpdateRule[FittingUpdate]):
    """Fits all coefficients in rounds by Levenberg-Marquardt, and makes the swaps that proved better between them."""

    @property
    def is_due(self) -> bool:
        """Whether the mask has reached the stage's share; never without forecasts, which have no coefficients."""
        at_target = self.router.share <= self.stage.target + _ROUNDING
        return self.config.router.forecast and self.stage.progress(self.iteration) > _BEGINS and at_target

    def compute_update(self) -> FittingUpdate:
        batch, workers = self.roll_out(), self.config.cluster.workers
        directions = [self.noise_pool.direction(number, self.iteration) for number in range(1, _DIRECTIONS + 1)]
        statistics = batch.coefficient_statistics(directions)
        rows = statistics.jacobian_rows.new_zeros(workers, *statistics.jacobian_rows.shape)
        rows[self.rank] = statistics.jacobian_rows * (workers / _DIRECTIONS) ** 0.5
        return FittingUpdate(
            error=batch.loss_weights.error,
            loss=batch.loss_weights.loss,
            gradient=statistics.gradient,
            jacobian_rows=rows,
            swap_tallies=self._tally_swaps(batch) * workers,
        )

    def apply_update(self, update: FittingUpdate) -> None:
        self.router.accumulate_fit(update.gradient, update.jacobian_rows.flatten(0, 2))
        self.router.swaps.accumulate(update.swap_tallies)
        rounds = self._rounds_after(self.iteration)
        if rounds > self._rounds_after(self.iteration - 1):
            self._end_round(is_last=rounds >= _ROUNDS)

    def _tally_swaps(self, batch: Batch) -> Tensor:
        """The gains of the batch's images by every proposed swap, [swaps, 3]."""
        tallies = torch.zeros_like(self.router.swaps.tallies, dtype=torch.float32)
        for number, mask in self.router.swaps.masks(self.router.mask):
            gains = batch.gains(mask)
            tallies[number] = torch.stack([gains.new_tensor(len(gains)), gains.sum(), gains.square().sum()])
        return tallies

    def _rounds_after(self, iteration: int) -> int:
        """Rounds of the stage that are complete after an iteration."""
        return math.floor(_ROUNDS * (self.stage.progress(iteration) - _BEGINS) / (1 - _BEGINS) + _ROUNDING)

    def _end_round(self, *, is_last: bool) -> None:
        """Fits the coefficients; then decides about swaps measured in this round, or proposes some for the next."""
        self.router.fit_coefficients()
        if self.router.swaps.pending:
            self.router.swaps.apply_proven(self.router.mask)
        elif not is_last:
            self.router.propose_swaps()
