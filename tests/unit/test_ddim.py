from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn
from unit_factories import tiny_dit

from l2c_ray.errors import ConfigError
from l2c_ray.models.base import CacheableTransformer, compute_all
from l2c_ray.sampling.loop import evaluate_guided, noise_from_seeds, sample_images
from l2c_ray.sampling.solver import Solver
from l2c_ray.sampling.solvers import make_solver

SHAPE = (2, 1, 4, 4)


def scheduler(spacing: str = "leading") -> DDIMScheduler:
    return DDIMScheduler(timestep_spacing=spacing, clip_sample=False)


def ddim(spacing: str = "leading", steps: int = 20) -> Solver:
    return make_solver("ddim", steps, scheduler(spacing))


def draw(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


class Recorder(nn.Module):
    """Predicts its label everywhere and keeps what it was asked."""

    null_label = 100

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, sample: Tensor, timestep: Tensor, labels: Tensor, branch: Callable[..., Tensor]) -> Tensor:
        self.asked.append((sample, timestep, labels))
        return labels.float()[:, None, None, None].expand_as(sample)


@pytest.mark.parametrize(
    ("spacing", "timesteps"),
    [
        ("leading", list(range(950, -1, -50))),
        ("trailing", list(range(999, 0, -50))),
        ("linspace", np.linspace(0, 999, 20).round()[::-1].tolist()),
    ],
)
def test_timesteps_are_those_of_the_spacing(spacing: str, timesteps: list[float]) -> None:
    assert list(ddim(spacing).timesteps) == timesteps


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [2, 7, 20])
def test_steps_go_down_and_are_as_many_as_wanted(spacing: str, steps: int) -> None:
    solver = ddim(spacing, steps)
    assert solver.steps == steps
    assert all(a > b for a, b in zip(solver.timesteps, solver.timesteps[1:], strict=False))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_number_of_steps_has_as_many_timesteps_of_the_model_and_they_fall(spacing: str) -> None:
    shared = scheduler(spacing)
    for steps in range(1, 1001):
        timesteps = make_solver("ddim", steps, shared).timesteps
        assert len(timesteps) == steps
        assert all(before > after for before, after in pairwise(timesteps))
        assert 999 >= timesteps[0] >= timesteps[-1] >= 0


def test_digits_model_has_the_trailing_spacing(digits_model: CacheableTransformer) -> None:
    assert digits_model.scheduler.config.timestep_spacing == "trailing"
    assert make_solver("ddim", 20, digits_model.scheduler).timesteps == ddim("trailing").timesteps


def test_more_steps_than_the_model_has_timesteps_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampler\.steps.*50"):
        make_solver("ddim", 51, DDIMScheduler(num_train_timesteps=50, clip_sample=False))


def test_identity_says_how_the_trajectory_was_made() -> None:
    identity = ddim("leading", 4).identity(1.5)
    assert (identity.name, identity.order, identity.steps) == ("ddim", 1, 4)
    assert identity.timesteps == (750.0, 500.0, 250.0, 0.0)
    assert identity.guidance_scale == 1.5


def test_updates_at_leading_spacing_are_those_of_diffusers() -> None:
    theirs = scheduler("leading")
    solver = make_solver("ddim", 20, scheduler("leading"))
    theirs.set_timesteps(20)
    sample = draw(0)
    for step, timestep in enumerate(theirs.timesteps):
        output = draw(step + 1)
        wanted = theirs.step(output, timestep, sample).prev_sample
        sample = solver.advance(step, sample, output)
        assert torch.allclose(sample, wanted, rtol=1e-4, atol=1e-5)
        sample = wanted


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_update_goes_to_the_neighbouring_timestep(spacing: str) -> None:
    solver = ddim(spacing)
    clean, noise = draw(0), draw(1)
    for step in range(19):
        sample = solver.add_noise(clean, noise, step)
        assert torch.allclose(solver.advance(step, sample, noise), solver.add_noise(clean, noise, step + 1), atol=1e-3)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_last_update_ends_at_the_clean_image(spacing: str) -> None:
    solver = ddim(spacing)
    clean, noise = draw(0), draw(1)
    assert torch.allclose(solver.advance(19, solver.add_noise(clean, noise, 19), noise), clean, atol=1e-5)


def test_channels_beyond_those_of_the_sample_are_ignored() -> None:
    solver = ddim()
    output = torch.cat([draw(1), torch.full(SHAPE, torch.nan)], dim=1)
    assert torch.equal(solver.advance(3, draw(0), output), solver.advance(3, draw(0), draw(1)))


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_noising_is_that_of_the_scheduler(spacing: str) -> None:
    solver = ddim(spacing)
    clean, noise = draw(0), draw(1)
    for step in (0, 7, 19):
        times = torch.full((2,), int(solver.timesteps[step]))
        wanted = scheduler(spacing).add_noise(clean, noise, times)
        assert torch.allclose(solver.add_noise(clean, noise, step), wanted, atol=1e-6)


def test_unknown_sampler_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match="ddim") as caught:
        make_solver("euler", 20, scheduler())
    assert caught.value.subject == "sampler.name"


def test_two_solvers_of_one_scheduler_keep_their_own_timesteps() -> None:
    shared = scheduler()
    first = make_solver("ddim", 4, shared)
    make_solver("ddim", 10, shared)
    assert first.timesteps == (750.0, 500.0, 250.0, 0.0)


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
    assert torch.equal(evaluate_guided(model, sample, 400.0, labels, 1.0, compute_all), plain)


def test_guidance_scale_1_evaluates_no_unconditional_half() -> None:
    model = Recorder()
    evaluate_guided(model, draw(0), 10.0, torch.tensor([3, 4]), 1.0, compute_all)
    ((sample, timestep, labels),) = model.asked
    assert len(sample) == len(timestep) == len(labels) == 2


@pytest.mark.parametrize(
    ("scale", "wanted"), [(0.0, [100, 100]), (0.5, [51.5, 52]), (1.5, [-45.5, -44]), (4.0, [-288, -284])]
)
def test_guidance_goes_from_the_unconditional_evaluation_through_the_conditional_one(
    scale: float, wanted: list[float]
) -> None:
    model = Recorder()
    output = evaluate_guided(model, draw(0), 10.0, torch.tensor([3, 4]), scale, compute_all)
    assert output[:, 0, 0, 0].tolist() == wanted
    assert model.asked[0][1].tolist() == [10.0] * 4


def test_guidance_of_a_model_is_that_of_two_evaluations() -> None:
    model = tiny_dit()
    sample, labels = noise_from_seeds([1, 2], model.image_shape), torch.tensor([0, 2])
    times = torch.tensor([400.0, 400.0])
    conditional = model(sample, times, labels, compute_all)
    unconditional = model(sample, times, torch.full_like(labels, model.null_label), compute_all)
    wanted = unconditional + 3 * (conditional - unconditional)
    assert torch.allclose(evaluate_guided(model, sample, 400.0, labels, 3.0, compute_all), wanted, atol=1e-5)


def test_sampling_evaluates_each_timestep_once_and_advances_in_between() -> None:
    model, solver = Recorder(), ddim("linspace", 3)
    result = sample_images(model, solver, draw(0), torch.tensor([3, 4]), 1.0)
    assert [asked[1][0].item() for asked in model.asked] == list(solver.timesteps)
    sample = draw(0)
    output = torch.tensor([3.0, 4.0])[:, None, None, None].expand(SHAPE)
    for step in range(3):
        assert torch.equal(model.asked[step][0], sample)
        sample = solver.advance(step, sample, output)
    assert torch.equal(result, sample)
