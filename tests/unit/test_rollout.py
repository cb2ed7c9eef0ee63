"""What trajectories tell about their choices: the same however many run at a time, and true by finite differences."""

import pytest
import torch
from torch import Tensor
from unit_factories import tiny_dit

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.learning.batch import Batch
from l2c_ray.learning.rollout import Rollout, run_in_full
from l2c_ray.learning.weighing import Weighing
from l2c_ray.sampling.loop import noise_from_seeds
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance

STEPS, IMAGES = 6, 3
# In double precision: what is told is a difference of numbers that are nearly the same, and in single precision another
# order of the same sums, as another processor has, is seen in its third digit.
MODEL = tiny_dit().double()
NOISE, LABELS = noise_from_seeds(range(IMAGES), MODEL.image_shape).double(), torch.arange(IMAGES) % MODEL.num_classes
SHAPE = (STEPS - 1, len(MODEL.units))
MASK = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3)) < 0.5
COEFFICIENTS = torch.rand(SHAPE, generator=torch.Generator().manual_seed(4)).double() - 0.3


def pipeline(sampler: str, scale: float = 1.5) -> Pipeline:
    return Pipeline(MODEL, make_solver(sampler, STEPS, MODEL), Guidance(scale=scale))


def told(by: Pipeline, images_at_once: int | None) -> list[Tensor]:
    full = run_in_full(by, NOISE, LABELS)
    batch = Batch(by, full, MASK, COEFFICIENTS, along_the_way=0.2, images_at_once=images_at_once)
    directions = list(torch.randn(2, *NOISE.shape, generator=torch.Generator().manual_seed(5)))
    choices = vars(batch.choices(directions[0])).values()
    again = Batch(by, full, MASK, COEFFICIENTS, along_the_way=0.2, images_at_once=images_at_once)
    return [batch.weighing.error, batch.weighing.loss, *choices, *again.coefficients_effects(directions)]


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver-2", "dpm-solver-pp-2m"])
@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("images_at_once", [1, 2, 3])
def test_images_run_a_few_at_a_time_tell_the_same(sampler: str, scale: float, images_at_once: int) -> None:
    at_once, few = (told(pipeline(sampler, scale), number) for number in (None, images_at_once))
    for mine, other in zip(few, at_once, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9 * other.abs().max().item())


def test_graph_of_but_one_evaluation_is_kept_where_they_are_made_again() -> None:
    """Counted in the bytes of all tensors that the graph holds on to."""

    def held(*, recompute: bool) -> int:
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        by = pipeline("ddim")
        full = run_in_full(by, NOISE, LABELS)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            Rollout(by, full, torch.ones_like(MASK), COEFFICIENTS, recompute=recompute)
        return sum(kept.values())

    assert held(recompute=True) < held(recompute=False) / 5


def test_slope_is_the_change_of_the_error() -> None:
    by = pipeline("ddim")
    full = run_in_full(by, NOISE, LABELS)
    weights = torch.tensor([0.5, 0.2, 0.3])

    def end(coefficients: Tensor) -> Tensor:
        return (Rollout(by, full, MASK, coefficients).squares[-1] * weights).sum()

    slope = Rollout(by, full, MASK, COEFFICIENTS).slope_of_the_end(weights)
    place = slope.abs().argmax()
    step = torch.zeros(SHAPE)
    step.view(-1)[place] = 1e-2
    up, down = (end(COEFFICIENTS + sign * step) for sign in (1, -1))
    assert ((up - down) / 2e-2).item() == pytest.approx(slope.view(-1)[place].item(), rel=0.05)


def test_weights_are_those_of_the_loss() -> None:
    """Its gradient by the squares, times the weighted error at the end where each image's weight stays."""
    squares = torch.tensor([[4.0, 1.0], [2.0, 8.0]], dtype=torch.float64)
    weighing = Weighing.of(squares, along_the_way=0.5)
    # The geometric mean at the end is 4.
    weights = torch.tensor([4 / 6, 4 / 12], dtype=torch.float64) / 2
    torch.testing.assert_close(weighing.at_the_end, weights)
    given = squares.clone().requires_grad_()
    errors = given @ weights
    loss = errors[-1].log() + 0.5 * errors.mean().log()
    (gradient,) = torch.autograd.grad(loss, given)
    torch.testing.assert_close(weighing.loss, loss.detach())
    torch.testing.assert_close(weighing.everywhere, gradient * errors[-1].detach())
    assert weighing.error == 5.0


def test_batch_without_error_weighs_nothing_but_the_end() -> None:
    weighing = Weighing.of(torch.zeros(3, 2), along_the_way=0.5)
    assert weighing.loss.isfinite()
    assert weighing.everywhere.isfinite().all()
    assert not weighing.everywhere[:-1].any()
