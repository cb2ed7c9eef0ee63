"""Fits the forecast coefficients of a mask that stays, all at once (Gauss-Newton, damped as Levenberg-Marquardt)."""

import torch
from torch import Tensor, nn

_DAMPING = 1.0
"""Of the diagonal: some hundred images tell little of what belongs together."""
_LEAST_DAMPING = 0.01
"""Of the diagonal's mean, for a coefficient that does all but nothing."""
_FADING = 0.5
"""Of what earlier rounds told."""
_LONGEST_STEP = 0.5
"""Of a coefficient in one round."""


class Refit(nn.Module):
    """A quadratic model of the error by all coefficients at once; `l2c_ray.learning.BudgetRouter` has one.

    What the model is made of is told at coefficients that change from round to round, so it keeps the gradient where
    they are all 0 as the model has it.
    """

    gradient: Tensor
    """[choices]."""
    curvature: Tensor
    """[choices, choices]: the second derivative."""

    def __init__(self, choices: int) -> None:
        super().__init__()
        self.register_buffer("gradient", torch.zeros(choices, dtype=torch.float64))
        self.register_buffer("curvature", torch.zeros(choices, choices, dtype=torch.float64))

    def forget(self) -> None:
        """What another mask told."""
        self.gradient.zero_()
        self.curvature.zero_()

    def note(self, coefficients: Tensor, gradient: Tensor, effects: Tensor) -> None:
        """Takes in what some images told.

        Args:
            coefficients: at which they did, [choices].
            gradient: of the error, [choices].
            effects: [number, choices], as of `Rollout.effects`.
        """
        rows = effects.double()
        self.gradient += gradient.double() - 2 * rows.T @ (rows @ coefficients.double())
        self.curvature.addmm_(rows.T, rows, alpha=2.0)

    def solve(self, coefficients: Tensor, free: Tensor) -> Tensor:
        """The coefficients [choices] with the `free` ones (a mask of that shape) where the model has its minimum.

        Ends a round: what it told counts less in the next one.
        """
        where = free.nonzero().flatten()
        here = coefficients.double()
        slope = (self.gradient + self.curvature @ here)[where]
        curvature = self.curvature[where][:, where]
        diagonal = curvature.diagonal()
        damping = _DAMPING * diagonal + _LEAST_DAMPING * diagonal.mean() + torch.finfo(torch.float64).tiny
        step = torch.linalg.solve(curvature + torch.diag(damping), slope)
        here[where] -= step.clamp(-_LONGEST_STEP, _LONGEST_STEP)
        self.gradient *= _FADING
        self.curvature *= _FADING
        return here.to(coefficients.dtype)
