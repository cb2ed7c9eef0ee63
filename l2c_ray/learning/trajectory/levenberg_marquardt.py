"""Levenberg-Marquardt on the forecast coefficients of a mask that is fixed."""

import torch
from torch import Tensor, nn

_DAMPING = 1.0
"""Damping relative to the diagonal; off-diagonal terms are noisy at about 100 samples."""
_LEAST_DAMPING = 0.01
"""Damping relative to the diagonal's mean, for coefficients that hardly matter."""
_DECAY = 0.5
"""Factor on the statistics of earlier rounds."""
_LONGEST_STEP = 0.5
"""Largest change of a coefficient in one round."""


class LevenbergMarquardt(nn.Module):
    """A quadratic model of the error by all coefficients, which accumulates over rounds of iterations.

    The coefficients differ from round to round, so the gradient is extrapolated to where all of them are 0.
    """

    gradient: Tensor
    """[choices], where all coefficients are 0."""
    curvature: Tensor
    """The second derivative, [choices, choices]."""

    def __init__(self, choices: int) -> None:
        super().__init__()
        self.register_buffer("gradient", torch.zeros(choices, dtype=torch.float64))
        self.register_buffer("curvature", torch.zeros(choices, choices, dtype=torch.float64))

    def reset(self) -> None:
        """Forgets the statistics of another mask."""
        self.gradient.zero_()
        self.curvature.zero_()

    def accumulate(self, coefficients: Tensor, gradient: Tensor, jacobian_rows: Tensor) -> None:
        """Adds the statistics of some images.

        Args:
            coefficients: those that the statistics belong to, [choices].
            gradient: gradient of the error, [choices].
            jacobian_rows: [rows, choices], whose outer products add up to half the Gauss-Newton matrix.
        """
        rows = jacobian_rows.double()
        self.gradient += gradient.double() - 2 * rows.T @ (rows @ coefficients.double())
        self.curvature.addmm_(rows.T, rows, alpha=2.0)

    def solve(self, coefficients: Tensor, free: Tensor) -> Tensor:
        """The coefficients [choices] after one damped step to the model's minimum, which ends a round.

        Args:
            free: mask [choices] of the coefficients that may change.
        """
        where = free.nonzero().flatten()
        solution = coefficients.double()
        gradient = (self.gradient + self.curvature @ solution)[where]
        curvature = self.curvature[where][:, where]
        diagonal = curvature.diagonal()
        damping = _DAMPING * diagonal + _LEAST_DAMPING * diagonal.mean() + torch.finfo(torch.float64).tiny
        step = torch.linalg.solve(curvature + torch.diag(damping), gradient)
        solution[where] -= step.clamp(-_LONGEST_STEP, _LONGEST_STEP)
        self.gradient *= _DECAY
        self.curvature *= _DECAY
        return solution.to(coefficients.dtype)
