"""The gated trajectory and its gradients, against the recursion written out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from unit_factories import tiny_dit

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.learning.trajectory.budget_router import table_of
from l2c_ray.learning.trajectory.gated_trajectory import GatedTrajectory
from l2c_ray.models.base import UnitHandler
from l2c_ray.sampling.loop import noise_from_seeds, sample_images, trajectory
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance

STEPS, IMAGES = 6, 3
GUIDANCE = Guidance(scale=1.5)
MODEL = tiny_dit()
SOLVER = make_solver("ddim", STEPS, MODEL)
NOISE, LABELS = noise_from_seeds(range(IMAGES), MODEL.image_shape), torch.arange(IMAGES) % MODEL.num_classes
SHAPE = (STEPS - 1, len(MODEL.units))


def choices(share: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(SHAPE, generator=generator) < share, torch.rand(SHAPE, generator=generator) - 0.3


class Written:
    """The recursion of the gate's docstring, with gates of any value, and all of it in the graph."""

    def __init__(self, gates: Tensor, coefficients: Tensor) -> None:
        self.gates, self.coefficients = gates, coefficients
        self.last: dict[int, Tensor] = {}
        self.before: dict[int, Tensor] = {}

    def __call__(self, step: int) -> UnitHandler:
        def first(unit: int, compute: Callable[[], Tensor]) -> Tensor:
            self.last[unit] = self.before[unit] = compute()
            return self.last[unit]

        def later(unit: int, compute: Callable[[], Tensor]) -> Tensor:
            gate = self.gates[step - 1, unit][:, None, None]
            coefficient = self.coefficients[step - 1, unit][:, None, None]
            fresh, last, before = compute(), self.last[unit], self.before[unit]
            forecast = last + coefficient * (last - before)
            self.last[unit] = gate * fresh + (1 - gate) * last
            self.before[unit] = gate * last + (1 - gate) * before
            return gate * fresh + (1 - gate) * forecast

        return later if step else first


def samples(handlers: GatedTrajectory | Written) -> list[Tensor]:
    return list(trajectory(MODEL, SOLVER, NOISE, LABELS, GUIDANCE, handlers))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_trajectory_equals_that_of_the_executor(share: float) -> None:
    mask, coefficients = choices(share)
    made = samples(GatedTrajectory(mask, coefficients, 2 * IMAGES))[-1]
    executor = ScheduleExecutor(table_of(mask, coefficients))
    run = sample_images(MODEL, SOLVER, NOISE, LABELS, GUIDANCE, executor)
    assert torch.allclose(made, run, atol=1e-6)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_gradients_are_those_of_the_recursion(share: float) -> None:
    mask, coefficients = choices(share)
    gated = GatedTrajectory(mask, coefficients, 2 * IMAGES)
    gates = gated.gates.detach().clone().requires_grad_()
    by_image = gated.coefficients.detach().clone().requires_grad_()
    mine = torch.stack(samples(gated)).square().sum()
    theirs = torch.stack(samples(Written(gates, by_image))).square().sum()
    of_gates, of_coefficients = torch.autograd.grad(mine, [gated.gates, gated.coefficients])
    expected_gates, expected_coefficients = torch.autograd.grad(theirs, [gates, by_image])
    assert torch.allclose(of_gates, expected_gates, rtol=1e-3, atol=1e-4)
    reused = ~mask
    assert torch.allclose(of_coefficients[reused], expected_coefficients[reused], rtol=1e-3, atol=1e-4)
    assert not of_coefficients[mask].any()


def test_products_over_squares_is_the_least_squares_fit() -> None:
    mask, coefficients = choices(1.0)
    gated = GatedTrajectory(mask, coefficients, 2 * IMAGES)
    outputs: list[list[Tensor]] = [[] for _ in MODEL.units]

    def noting(step: int) -> UnitHandler:
        inner = gated(step)

        def handle(unit: int, compute: Callable[[], Tensor]) -> Tensor:
            outputs[unit].append(inner(unit, compute).detach())
            return outputs[unit][-1]

        return handle

    sample_images(MODEL, SOLVER, NOISE, LABELS, GUIDANCE, noting)
    before, last, fresh = (value.flatten() for value in outputs[1][1:4])
    fitted = torch.linalg.lstsq((last - before)[:, None], (fresh - last)[:, None]).solution.item()
    assert (gated.difference_products / gated.difference_squares)[2, 1].item() == pytest.approx(fitted, rel=1e-4)
