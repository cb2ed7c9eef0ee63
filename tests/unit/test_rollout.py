"""Statistics of rollouts: independent of the micro-batch size, and true by finite differences."""

import pytest
import torch
from torch import Tensor
from unit_factories import tiny_dit

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.learning.trajectory.batch import Batch
from l2c_ray.learning.trajectory.loss_weights import LossWeights
from l2c_ray.learning.trajectory.rollout import Rollout, run_baseline
from l2c_ray.sampling.loop import noise_from_seeds
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance

STEPS, IMAGES = 6, 3
# In double precision: errors are differences of nearly equal numbers, and in single precision their third digit depends
# on the order of summation, which differs between processors.
MODEL = tiny_dit().double()
NOISE, LABELS = noise_from_seeds(range(IMAGES), MODEL.image_shape).double(), torch.arange(IMAGES) % MODEL.num_classes
SHAPE = (STEPS - 1, len(MODEL.units))
MASK = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3)) < 0.5
COEFFICIENTS = torch.rand(SHAPE, generator=torch.Generator().manual_seed(4)).double() - 0.3


def pipeline(sampler: str, scale: float = 1.5) -> Pipeline:
    return Pipeline(MODEL, make_solver(sampler, STEPS, MODEL), Guidance(scale=scale))


def statistics(by: Pipeline, micro_batch_size: int | None) -> list[Tensor]:
    baseline = run_baseline(by, NOISE, LABELS)
    batch = Batch(by, baseline, MASK, COEFFICIENTS, intermediate_loss_weight=0.2, micro_batch_size=micro_batch_size)
    directions = list(torch.randn(2, *NOISE.shape, generator=torch.Generator().manual_seed(5)))
    choices = vars(batch.choice_statistics(directions[0])).values()
    again = Batch(by, baseline, MASK, COEFFICIENTS, intermediate_loss_weight=0.2, micro_batch_size=micro_batch_size)
    coefficients = vars(again.coefficient_statistics(directions)).values()
    return [batch.loss_weights.error, batch.loss_weights.loss, *choices, *coefficients]


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver-2", "dpm-solver-pp-2m"])
@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("micro_batch_size", [1, 2, 3])
def test_micro_batches_give_the_statistics_of_the_whole_batch(
    sampler: str, scale: float, micro_batch_size: int
) -> None:
    whole, parts = (statistics(pipeline(sampler, scale), number) for number in (None, micro_batch_size))
    for mine, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9 * other.abs().max().item())


def test_recomputing_keeps_the_graph_of_one_evaluation() -> None:
    """Counted in the bytes of all tensors that the graph saves."""

    def held(*, recompute: bool) -> int:
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        by = pipeline("ddim")
        baseline = run_baseline(by, NOISE, LABELS)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            Rollout(by, baseline, torch.ones_like(MASK), COEFFICIENTS, recompute=recompute)
        return sum(kept.values())

    assert held(recompute=True) < held(recompute=False) / 5


def test_gradient_is_that_of_finite_differences() -> None:
    by = pipeline("ddim")
    baseline = run_baseline(by, NOISE, LABELS)
    weights = torch.tensor([0.5, 0.2, 0.3])

    def end(coefficients: Tensor) -> Tensor:
        return (Rollout(by, baseline, MASK, coefficients).errors[-1] * weights).sum()

    gradient = Rollout(by, baseline, MASK, COEFFICIENTS).final_error_gradient(weights)
    place = gradient.abs().argmax()
    step = torch.zeros(SHAPE)
    step.view(-1)[place] = 1e-2
    up, down = (end(COEFFICIENTS + sign * step) for sign in (1, -1))
    assert ((up - down) / 2e-2).item() == pytest.approx(gradient.view(-1)[place].item(), rel=0.05)


def test_weights_are_the_gradient_of_the_loss() -> None:
    """By the errors, with fixed weights of the images, times the weighted final error."""
    errors = torch.tensor([[4.0, 1.0], [2.0, 8.0]], dtype=torch.float64)
    loss_weights = LossWeights.of(errors, intermediate_loss_weight=0.5)
    # The geometric mean at the end is 4.
    weights = torch.tensor([4 / 6, 4 / 12], dtype=torch.float64) / 2
    torch.testing.assert_close(loss_weights.final, weights)
    given = errors.clone().requires_grad_()
    weighted = given @ weights
    loss = weighted[-1].log() + 0.5 * weighted.mean().log()
    (gradient,) = torch.autograd.grad(loss, given)
    torch.testing.assert_close(loss_weights.loss, loss.detach())
    torch.testing.assert_close(loss_weights.by_step, gradient * weighted[-1].detach())
    assert loss_weights.error == 5.0


def test_batch_without_error_has_weights_at_the_end_alone() -> None:
    loss_weights = LossWeights.of(torch.zeros(3, 2), intermediate_loss_weight=0.5)
    assert loss_weights.loss.isfinite()
    assert loss_weights.by_step.isfinite().all()
    assert not loss_weights.by_step[:-1].any()
