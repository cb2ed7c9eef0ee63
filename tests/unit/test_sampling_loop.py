from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from unit_factories import tiny_dit

from l2c_ray.models.base import compute_all
from l2c_ray.sampling.loop import evaluate_guided, guide, noise_from_seeds, sample_images
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance, GuidanceRule

SHAPE = (2, 1, 4, 4)


def draw(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


class Recorder(nn.Module):
    """Predicts its label everywhere and keeps what it was asked."""

    null_label = 100

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, sample: Tensor, timestep: Tensor, labels: Tensor, handler: Callable[..., Tensor]) -> Tensor:
        self.asked.append((sample, timestep, labels))
        return labels.float()[:, None, None, None].expand_as(sample)


def test_noise_of_a_seed_does_not_depend_on_the_batch() -> None:
    batch = noise_from_seeds([5, 6, 7, 6], (1, 8, 8))
    assert batch.shape == (4, 1, 8, 8)
    assert torch.equal(batch[1:2], noise_from_seeds([6], (1, 8, 8)))
    assert torch.equal(batch[1], batch[3])
    assert not torch.equal(batch[0], batch[1])


def test_noise_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    noise_from_seeds([1, 2], (1, 8, 8))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_guidance_scale_1_is_the_plain_conditional_evaluation() -> None:
    model = tiny_dit()
    sample, labels = noise_from_seeds([1, 2], model.image_shape), torch.tensor([0, 2])
    plain = model(sample, torch.tensor([400.0, 400.0]), labels, compute_all)
    assert torch.equal(evaluate_guided(model, sample, 400.0, labels, Guidance(scale=1.0), compute_all), plain)


def test_guidance_scale_1_evaluates_no_unconditional_half() -> None:
    model = Recorder()
    evaluate_guided(model, draw(0), 10.0, torch.tensor([3, 4]), Guidance(scale=1.0), compute_all)
    ((sample, timestep, labels),) = model.asked
    assert len(sample) == len(timestep) == len(labels) == 2


@pytest.mark.parametrize(
    ("scale", "wanted"), [(0.0, [100, 100]), (0.5, [51.5, 52]), (1.5, [-45.5, -44]), (4.0, [-288, -284])]
)
def test_guidance_extrapolates_from_unconditional_to_conditional(scale: float, wanted: list[float]) -> None:
    model = Recorder()
    output = evaluate_guided(model, draw(0), 10.0, torch.tensor([3, 4]), Guidance(scale=scale), compute_all)
    assert output[:, 0, 0, 0].tolist() == wanted
    assert model.asked[0][1].tolist() == [10.0] * 4


def test_guidance_of_a_model_is_that_of_two_evaluations() -> None:
    model = tiny_dit()
    sample, labels = noise_from_seeds([1, 2], model.image_shape), torch.tensor([0, 2])
    times = torch.tensor([400.0, 400.0])
    conditional = model(sample, times, labels, compute_all)
    unconditional = model(sample, times, torch.full_like(labels, model.null_label), compute_all)
    wanted = unconditional + 3 * (conditional - unconditional)
    assert torch.allclose(
        evaluate_guided(model, sample, 400.0, labels, Guidance(scale=3.0), compute_all), wanted, atol=1e-5
    )


def test_sampling_evaluates_each_timestep_once_and_advances_in_between() -> None:
    model, solver = Recorder(), make_solver("ddim", 3, tiny_dit())
    result = sample_images(model, solver, draw(0), torch.tensor([3, 4]), Guidance(scale=1.0))
    assert [asked[1][0].item() for asked in model.asked] == list(solver.timesteps)
    sample = draw(0)
    output = torch.tensor([3.0, 4.0])[:, None, None, None].expand(SHAPE)
    for step in range(3):
        assert torch.equal(model.asked[step][0], sample)
        sample = solver.begin()(step, sample, output)
    assert torch.equal(result, sample)


@pytest.mark.parametrize(
    ("rule", "scale", "wanted"),
    [
        ("standard", 0.0, [1, 1, 1, 1]),
        ("standard", 3.0, [7, 7, 7, 7]),
        ("first-three", 3.0, [7, 7, 7, 3]),
        ("first-three", 0.0, [1, 1, 1, 3]),
        ("beyond", 0.0, [3, 3, 3, 3]),
        ("beyond", 0.5, [4, 4, 4, 4]),
    ],
)
def test_guidance_rules_of_outputs_3_with_the_label_and_1_without(
    rule: GuidanceRule, scale: float, wanted: list[float]
) -> None:
    conditional, unconditional = torch.full((2, 4, 1, 1), 3.0), torch.full((2, 4, 1, 1), 1.0)
    guided = guide(conditional, unconditional, Guidance(scale=scale, rule=rule))
    assert guided[:, :, 0, 0].tolist() == [wanted, wanted]


def test_beyond_by_s_is_standard_at_1_plus_s() -> None:
    conditional, unconditional = draw(0), draw(1)
    beyond = guide(conditional, unconditional, Guidance(scale=0.4, rule="beyond"))
    assert torch.allclose(beyond, guide(conditional, unconditional, Guidance(scale=1.4)), atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "scale", "evaluated"),
    [("standard", 1, 2), ("standard", 0, 4), ("first-three", 1, 2), ("beyond", 0, 2), ("beyond", 1, 4)],
)
def test_unconditional_half_is_evaluated_where_the_result_depends_on_it(
    rule: GuidanceRule, scale: float, evaluated: int
) -> None:
    model = Recorder()
    evaluate_guided(model, draw(0), 10.0, torch.tensor([3, 4]), Guidance(scale=scale, rule=rule), compute_all)
    assert [len(sample) for sample, _, _ in model.asked] == [evaluated]
