"""The fit of all coefficients at once, on errors that are quadratic in them."""

import torch
from torch import Tensor

from l2c_ray.learning.refit import Refit

CHOICES, IMAGES = 6, 400
FREE = torch.tensor([True, True, False, True, True, True])
BEST = torch.tensor([0.3, -0.2, 0.0, 0.1, 0.25, -0.1])


def images_effects() -> Tensor:
    """[images, choices], of which two always go together, so that neither can be fitted alone."""
    effects = torch.randn(IMAGES, CHOICES, generator=torch.Generator().manual_seed(0))
    effects[:, 1] = 0.9 * effects[:, 0] + 0.1 * effects[:, 1]
    return effects / IMAGES**0.5


def fitted(rounds: int) -> Tensor:
    refit, coefficients, effects = Refit(CHOICES), torch.zeros(CHOICES), images_effects()
    for _ in range(rounds):
        gradient = 2 * effects.T @ (effects @ (coefficients - BEST))
        refit.note(coefficients, gradient, effects)
        coefficients = refit.solve(coefficients, FREE)
    return coefficients


def error(coefficients: Tensor) -> float:
    return (images_effects() @ (coefficients - BEST)).square().sum().item()


def test_rounds_lead_to_the_least_error() -> None:
    before, once, often = (error(fitted(rounds)) for rounds in (0, 1, 30))
    assert once < 0.3 * before
    assert often < 1e-2 * before


def test_coefficient_that_is_not_free_stays() -> None:
    assert fitted(3)[2] == 0


def test_what_was_told_elsewhere_still_holds() -> None:
    """A round whose images said nothing new leads on, since the model knows the slope where it has come to."""
    refit, coefficients, effects = Refit(CHOICES), torch.zeros(CHOICES), images_effects()
    refit.note(coefficients, 2 * effects.T @ (effects @ -BEST), effects)
    once = refit.solve(coefficients, FREE)
    twice = refit.solve(once, FREE)
    assert error(twice) < 0.7 * error(once)


def test_coefficient_without_effect_and_no_coefficient_at_all_are_no_trouble() -> None:
    refit, effects = Refit(CHOICES), images_effects()
    effects[:, 3] = 0
    refit.note(torch.zeros(CHOICES), 2 * effects.T @ (effects @ -BEST), effects)
    assert refit.solve(torch.ones(CHOICES), FREE)[3] == 1
    assert torch.equal(refit.solve(torch.ones(CHOICES), torch.zeros_like(FREE)), torch.ones(CHOICES))


def test_another_mask_starts_anew() -> None:
    refit, effects = Refit(CHOICES), images_effects()
    refit.note(torch.zeros(CHOICES), torch.ones(CHOICES), effects)
    refit.forget()
    assert torch.equal(refit.solve(torch.ones(CHOICES), FREE), torch.ones(CHOICES))
