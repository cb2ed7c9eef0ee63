"""The first part of a stage: the mask tightens to the stage's share, and coefficients follow their gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor

from l2c_ray.learning.trajectory.update_rule import TrajectoryUpdateRule
from l2c_ray.learning.updates import Update

_WARM_UP, _TIGHTENED = 0.1, 0.6
"""Progress of a stage up to which the first stage reuses nothing, so that importances settle, and from which on a
stage is at its target."""
_POWER = 1.5
"""Power of the remaining time by which the share falls: the tighter, the slower."""


@dataclass(frozen=True)
class TighteningUpdate(Update):
    """Statistics of a batch about every choice, each [steps - 1, units]."""

    importance: Tensor
    """Rise of the error if a unit is reused, compared with computing it, over the sum of all sizes."""
    coefficient_gradient: Tensor
    coefficient_curvature: Tensor
    """As in `ChoiceStatistics`, over the same sum."""
    difference_products: Tensor
    difference_squares: Tensor
    """As in `GatedTrajectory`."""


class MaskTightening(TrajectoryUpdateRule[TighteningUpdate]):
    """Chooses what to compute by importance, within a share that falls from the stage's start to its target.

    The importance of a unit is the change of the final error if its choice were the other one, by its gradient and
    curvature (Hutchinson's estimate of the Gauss-Newton matrix's diagonal). By the gradient alone no computed unit
    would matter: where there is no error, none is removed by computing.
    """

    def compute_update(self) -> TighteningUpdate:
        batch = self.roll_out()
        statistics = batch.choice_statistics(self.noise_pool.direction(0, self.iteration))
        curvature = statistics.gate_curvature
        importance = torch.where(self.router.mask, curvature, -curvature) - statistics.gate_gradient
        # Every batch counts alike, also one of large errors.
        scale = importance.abs().sum() + torch.finfo(importance.dtype).tiny
        return TighteningUpdate(
            error=batch.loss_weights.error,
            loss=batch.loss_weights.loss,
            importance=importance / scale,
            coefficient_gradient=statistics.coefficient_gradient / scale,
            coefficient_curvature=statistics.coefficient_curvature / scale,
            difference_products=statistics.difference_products,
            difference_squares=statistics.difference_squares,
        )

    def apply_update(self, update: TighteningUpdate) -> None:
        self.router.accumulate(update.importance, update.difference_products, update.difference_squares)
        rate = self.config.training.learning_rate
        self.router.descend(update.coefficient_gradient, update.coefficient_curvature, rate)
        self.router.choose_mask(self._share())

    def _share(self) -> float:
        """Share of the baseline's cost that the mask may take after this iteration."""
        start, target = self.stage.start.share, self.stage.target
        # Importances are known after a warm start and after an earlier stage.
        begins_at_baseline = self.stage.iterations.start == 0 and start == 1
        warm_up = _WARM_UP if begins_at_baseline else 0.0
        left = (_TIGHTENED - self.stage.progress(self.iteration)) / (_TIGHTENED - warm_up)
        share: float = target + (start - target) * min(1.0, max(0.0, left)) ** _POWER
        return share
