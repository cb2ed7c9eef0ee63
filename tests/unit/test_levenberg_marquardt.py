"""The joint fit of all coefficients, on errors that are quadratic in them."""

import torch
from torch import Tensor

from l2c_ray.learning.trajectory.levenberg_marquardt import LevenbergMarquardt

CHOICES, IMAGES = 6, 400
FREE = torch.tensor([True, True, False, True, True, True])
BEST = torch.tensor([0.3, -0.2, 0.0, 0.1, 0.25, -0.1])


def jacobian_rows() -> Tensor:
    """[images, choices], with two columns so correlated that neither coefficient can be fitted alone."""
    rows = torch.randn(IMAGES, CHOICES, generator=torch.Generator().manual_seed(0))
    rows[:, 1] = 0.9 * rows[:, 0] + 0.1 * rows[:, 1]
    return rows / IMAGES**0.5


def fitted(rounds: int) -> Tensor:
    fit, coefficients, rows = LevenbergMarquardt(CHOICES), torch.zeros(CHOICES), jacobian_rows()
    for _ in range(rounds):
        gradient = 2 * rows.T @ (rows @ (coefficients - BEST))
        fit.accumulate(coefficients, gradient, rows)
        coefficients = fit.solve(coefficients, FREE)
    return coefficients


def error(coefficients: Tensor) -> float:
    return (jacobian_rows() @ (coefficients - BEST)).square().sum().item()


def test_rounds_lead_to_the_least_error() -> None:
    before, once, often = (error(fitted(rounds)) for rounds in (0, 1, 30))
    assert once < 0.3 * before
    assert often < 1e-2 * before


def test_coefficient_that_is_not_free_stays() -> None:
    assert fitted(3)[2] == 0


def test_round_without_new_statistics_still_descends() -> None:
    """The model knows the gradient at the coefficients that the round before came to."""
    fit, coefficients, rows = LevenbergMarquardt(CHOICES), torch.zeros(CHOICES), jacobian_rows()
    fit.accumulate(coefficients, 2 * rows.T @ (rows @ -BEST), rows)
    once = fit.solve(coefficients, FREE)
    twice = fit.solve(once, FREE)
    assert error(twice) < 0.7 * error(once)


def test_coefficient_without_effect_stays_and_none_at_all_is_no_error() -> None:
    fit, rows = LevenbergMarquardt(CHOICES), jacobian_rows()
    rows[:, 3] = 0
    fit.accumulate(torch.zeros(CHOICES), 2 * rows.T @ (rows @ -BEST), rows)
    assert fit.solve(torch.ones(CHOICES), FREE)[3] == 1
    assert torch.equal(fit.solve(torch.ones(CHOICES), torch.zeros_like(FREE)), torch.ones(CHOICES))


def test_reset_forgets_the_statistics() -> None:
    fit, rows = LevenbergMarquardt(CHOICES), jacobian_rows()
    fit.accumulate(torch.zeros(CHOICES), torch.ones(CHOICES), rows)
    fit.reset()
    assert torch.equal(fit.solve(torch.ones(CHOICES), FREE), torch.ones(CHOICES))
