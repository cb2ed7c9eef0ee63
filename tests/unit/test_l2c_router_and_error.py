"""The paper's router and its thresholds, and the error that it learns from."""

import math

import pytest
import torch
from torch import Tensor
from unit_factories import tiny_dit

from l2c_ray.learning.l2c.pair_error import interpolate, pair_error, record
from l2c_ray.learning.l2c.router import Router
from l2c_ray.models.base import compute_all
from l2c_ray.models.dit import DiT
from l2c_ray.sampling.solver import Solver
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Table

STEPS = 6


def solver_of(model: DiT) -> Solver:
    return make_solver("ddim", STEPS, model)


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    clean, noise = (torch.randn(2, 1, 4, 4, generator=generator, dtype=dtype) for _ in range(2))
    return clean, noise, torch.tensor([0, 2])


def error(model: DiT, scores: Tensor, cache_step: int = 3) -> Tensor:
    return pair_error(model, solver_of(model), cache_step, scores, *batch(scores.dtype))


@pytest.mark.parametrize(("steps", "cache_steps"), [(2, (1,)), (5, (1, 3)), (6, (1, 3, 5))])
def test_every_other_step_may_reuse_and_step_0_never(steps: int, cache_steps: tuple[int, ...]) -> None:
    assert make_solver("ddim", steps, tiny_dit()).cache_steps() == cache_steps


def test_scores_are_sigmoids_and_1_where_a_step_always_computes() -> None:
    router = Router(4, 3, (1, 3), 2.0)
    assert torch.equal(router.scores(1), torch.sigmoid(torch.full((3,), 2.0)))
    table = router.score_table()
    assert torch.equal(table[[0, 2]], torch.ones(2, 3))
    assert torch.equal(table[1], router.scores(1))


def with_logits(*logits: float) -> Router:
    router = Router(2, len(logits), (1,), 0.0)
    with torch.no_grad():
        router.row(1).copy_(torch.tensor(logits))
    return router


def computed(table: Table) -> float:
    return sum(map(sum, table.compute)) / 8


@pytest.mark.parametrize(
    ("budget", "theta", "row"),
    [
        (1.0, -math.inf, (1, 1, 1, 1)),
        (0.875, -2.0, (0, 1, 1, 1)),
        (0.8, 0.0, (0, 1, 0, 1)),
        (0.7, 1.0, (0, 0, 0, 1)),
        (0.5, 3.0, (0, 0, 0, 0)),
    ],
)
def test_budget_takes_the_threshold_that_computes_the_most_within_it(
    budget: float, theta: float, row: tuple[int, ...]
) -> None:
    found, table = with_logits(-2.0, 1.0, 0.0, 3.0).within(budget, computed) or (None, None)
    assert table is not None
    assert table.compute == ((1, 1, 1, 1), row)
    assert found == pytest.approx(torch.sigmoid(torch.tensor(theta)).item())


def test_budget_below_what_always_computes_is_met_by_no_threshold() -> None:
    assert with_logits(-2.0, 1.0).within(0.4, lambda table: sum(map(sum, table.compute)) / 4) is None


@pytest.mark.parametrize(
    ("theta", "row"),
    [
        (0.5, (0, 0, 0, 1, 1)),
        (0.0, (0, 1, 1, 1, 1)),
        (1.0, (0, 0, 0, 0, 0)),
        (0.75, (0, 0, 0, 0, 1)),
    ],
)
def test_unit_is_computed_where_its_score_is_strictly_above_theta(theta: float, row: tuple[int, ...]) -> None:
    router = with_logits(-200.0, -1e-2, 0.0, 1e-2, 200.0)
    assert router.scores(1)[[0, 2, 4]].tolist() == [0.0, 0.5, 1.0]
    assert router.threshold(theta) == Table.of(((1,) * 5, row), (1,))


def test_every_phase_of_the_trajectory_has_a_threshold_of_its_own() -> None:
    mask = Router(6, 1, (1, 3, 5), 0.0).threshold(0.6, 0.4, 0.5).compute
    assert mask == ((1,), (0,), (1,), (1,), (1,), (0,))


def test_steps_that_may_not_reuse_compute_everything_at_any_theta() -> None:
    table = Router(5, 2, (1, 3), -5.0).threshold(1.0)
    assert table.compute == ((1, 1), (0, 0), (1, 1), (0, 0), (1, 1))


def test_blend_is_score_times_fresh_and_the_rest_cached() -> None:
    cache = {0: torch.tensor([1.0, 2.0]), 1: torch.tensor([10.0, 20.0])}
    scores = torch.tensor([0.25, 1.0])
    handler = interpolate(scores, cache)
    assert handler(0, lambda: torch.tensor([5.0, -2.0])).tolist() == [0.25 * 5 + 0.75 * 1, 0.25 * -2 + 0.75 * 2]
    assert handler(1, lambda: torch.tensor([5.0, -2.0])).tolist() == [5.0, -2.0]


def test_recording_keeps_what_it_gives() -> None:
    outputs: dict[int, Tensor] = {}
    given = record(outputs)(3, lambda: torch.ones(2))
    assert outputs[3] is given


def test_score_1_gives_no_error_and_a_lower_score_some() -> None:
    model = tiny_dit()
    assert error(model, torch.ones(4)).item() == 0
    assert error(model, torch.tensor([1.0, 0.0, 1.0, 1.0])).item() > 0


def test_error_compares_the_blended_evaluation_with_the_full_one() -> None:
    model = tiny_dit()
    solver = solver_of(model)
    clean, noise, labels = batch()
    scores = torch.tensor([0.1, 0.4, 0.7, 0.9])
    cache: dict[int, Tensor] = {}
    times = [torch.full((2,), time) for time in solver.timesteps]
    noisy = solver.add_noise(clean, noise, 2)
    sample = solver.begin()(2, noisy, model(noisy, times[2], labels, record(cache)))
    teacher = model(sample, times[3], labels, compute_all)
    student = model(
        sample, times[3], labels, lambda unit, compute: scores[unit] * compute() + (1 - scores[unit]) * cache[unit]
    )
    wanted = ((student - teacher) ** 2).mean()
    assert torch.allclose(error(model, scores), wanted, rtol=1e-3)


def test_gradient_of_the_error_is_that_of_finite_differences() -> None:
    model = tiny_dit(channels=1, out_channels=2).double()
    scores = torch.tensor([0.2, 0.5, 0.8, 0.95], dtype=torch.float64, requires_grad=True)
    assert error(model, scores).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda given: error(model, given), scores, eps=1e-6, atol=1e-9, rtol=1e-4)


def test_only_the_blended_evaluation_is_in_the_graph() -> None:
    model = tiny_dit()
    in_graph: list[bool] = []
    model.register_forward_hook(lambda _, __, output: in_graph.append(output.requires_grad))
    error(model, torch.full((4,), 0.5, requires_grad=True))
    assert in_graph == [False, False, True]


def test_teacher_is_out_of_the_graph_even_where_the_weights_are_not_frozen() -> None:
    model = tiny_dit().requires_grad_(True)
    in_graph: list[bool] = []
    model.register_forward_hook(lambda _, __, output: in_graph.append(output.requires_grad))
    error(model, torch.full((4,), 0.5, requires_grad=True))
    assert in_graph == [False, False, True]
