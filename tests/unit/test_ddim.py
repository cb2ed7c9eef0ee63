from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from unit_factories import GUIDANCE, tiny_dit

from l2c_ray.errors import ConfigError
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.dit import DiT
from l2c_ray.sampling.solver import Solver
from l2c_ray.sampling.solvers import make_solver

SHAPE = (2, 1, 4, 4)


def scheduler(spacing: str = "leading") -> DDIMScheduler:
    return DDIMScheduler(timestep_spacing=spacing, clip_sample=False)


def model_of(spacing: str = "leading") -> DiT:
    model = tiny_dit()
    model.scheduler = scheduler(spacing)
    return model


def ddim(spacing: str = "leading", steps: int = 20) -> Solver:
    return make_solver("ddim", steps, model_of(spacing))


def draw(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


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
def test_every_number_of_steps_has_falling_timesteps_of_the_model(spacing: str) -> None:
    shared = model_of(spacing)
    for steps in range(1, 1001):
        timesteps = make_solver("ddim", steps, shared).timesteps
        assert len(timesteps) == steps
        assert all(before > after for before, after in pairwise(timesteps))
        assert 999 >= timesteps[0] >= timesteps[-1] >= 0


def test_digits_model_has_the_trailing_spacing(digits_model: CacheableTransformer) -> None:
    assert digits_model.scheduler.config.timestep_spacing == "trailing"
    assert make_solver("ddim", 20, digits_model).timesteps == ddim("trailing").timesteps


def test_more_steps_than_the_model_has_timesteps_are_refused() -> None:
    model = tiny_dit()
    model.scheduler = DDIMScheduler(num_train_timesteps=50, clip_sample=False)
    with pytest.raises(ConfigError, match=r"sampler\.steps.*50"):
        make_solver("ddim", 51, model)


def test_identity_says_how_the_trajectory_was_made() -> None:
    identity = ddim("leading", 4).identity(GUIDANCE)
    assert (identity.name, identity.order, identity.steps) == ("ddim", 1, 4)
    assert identity.timesteps == (750.0, 500.0, 250.0, 0.0)
    assert identity.guidance == GUIDANCE


def test_updates_at_leading_spacing_are_those_of_diffusers() -> None:
    theirs = scheduler("leading")
    solver = ddim("leading")
    theirs.set_timesteps(20)
    advance = solver.begin()
    sample = draw(0)
    for step, timestep in enumerate(theirs.timesteps):
        output = draw(step + 1)
        wanted = theirs.step(output, timestep, sample).prev_sample
        sample = advance(step, sample, output)
        assert torch.allclose(sample, wanted, rtol=1e-4, atol=1e-5)
        sample = wanted


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_update_goes_to_the_neighbouring_timestep(spacing: str) -> None:
    solver = ddim(spacing)
    clean, noise = draw(0), draw(1)
    for step in range(19):
        sample = solver.add_noise(clean, noise, step)
        assert torch.allclose(solver.begin()(step, sample, noise), solver.add_noise(clean, noise, step + 1), atol=1e-3)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_last_update_ends_at_the_clean_image(spacing: str) -> None:
    solver = ddim(spacing)
    clean, noise = draw(0), draw(1)
    assert torch.allclose(solver.begin()(19, solver.add_noise(clean, noise, 19), noise), clean, atol=1e-5)


def test_channels_beyond_those_of_the_sample_are_ignored() -> None:
    solver = ddim()
    output = torch.cat([draw(1), torch.full(SHAPE, torch.nan)], dim=1)
    assert torch.equal(solver.begin()(3, draw(0), output), solver.begin()(3, draw(0), draw(1)))


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
        make_solver("euler", 20, tiny_dit())
    assert caught.value.subject == "sampler.name"


def test_two_solvers_of_one_scheduler_keep_their_own_timesteps() -> None:
    shared = model_of()
    first = make_solver("ddim", 4, shared)
    make_solver("ddim", 10, shared)
    assert first.timesteps == (750.0, 500.0, 250.0, 0.0)
