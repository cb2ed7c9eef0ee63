"""What a trajectory tells about its choices: the same with and without its graph, and true by finite differences."""

import pytest
import torch
from torch import Tensor
from unit_factories import tiny_dit

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.learning.rollout import Rollout, run_in_full
from l2c_ray.sampling.loop import noise_from_seeds
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance

STEPS, IMAGES = 6, 3
MODEL = tiny_dit()
NOISE, LABELS = noise_from_seeds(range(IMAGES), MODEL.image_shape), torch.arange(IMAGES) % MODEL.num_classes
SHAPE = (STEPS - 1, len(MODEL.units))
MASK = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3)) < 0.5
COEFFICIENTS = torch.rand(SHAPE, generator=torch.Generator().manual_seed(4)) - 0.3


def pipeline(sampler: str, scale: float = 1.5) -> Pipeline:
    return Pipeline(MODEL, make_solver(sampler, STEPS, MODEL), Guidance(scale=scale))


def told(by: Pipeline, *, recompute: bool) -> list[Tensor]:
    rollout = Rollout(by, run_in_full(by, NOISE, LABELS), MASK, COEFFICIENTS, recompute=recompute)
    generator = torch.Generator().manual_seed(5)
    found = [rollout.error, rollout.loss.detach(), *rollout.slopes(), rollout.slope_of_the_end()]
    return [*found, *rollout.effects(generator, last=False), *rollout.effects(generator, last=True)]


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver-2", "dpm-solver-pp-2m"])
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_evaluations_made_again_tell_the_same(sampler: str, scale: float) -> None:
    kept, made_again = (told(pipeline(sampler, scale), recompute=recompute) for recompute in (False, True))
    for mine, other in zip(made_again, kept, strict=True):
        torch.testing.assert_close(mine, other)


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

    def end(coefficients: Tensor) -> Tensor:
        return Rollout(by, full, MASK, coefficients)._end

    base = Rollout(by, full, MASK, COEFFICIENTS)
    slope = base.slope_of_the_end()
    place = slope.abs().argmax()
    step = torch.zeros(SHAPE)
    step.view(-1)[place] = 1e-2
    weights = base._weights.view(-1, 1, 1, 1)
    up, down = ((end(COEFFICIENTS + sign * step) - full.samples[-1]).square() * weights for sign in (1, -1))
    assert ((up.mean() - down.mean()) / 2e-2).item() == pytest.approx(slope.view(-1)[place].item(), rel=0.05)
