from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from tiny_models import UVIT_SHAPE, tiny_dit, tiny_uvit
from torch import Tensor
from unit_factories import GUIDANCE

from l2c_ray.errors import ConfigError
from l2c_ray.models.base import CacheableTransformer, NoiseScheduler, compute_all
from l2c_ray.sampling.loop import noise_from_seeds, sample_images
from l2c_ray.sampling.solver import Solver
from l2c_ray.sampling.solvers import SOLVERS, make_solver
from l2c_ray.schedule import Guidance

AUTHORS_TIMESTEPS = [
    (1000.0, 951.8417),
    (900.1, 851.9284),
    (800.2, 751.8991),
    (700.3, 651.7146),
    (600.4, 551.3489),
    (500.5, 450.7755),
    (400.6, 349.9186),
    (300.7, 248.4989),
    (200.8, 145.2328),
    (100.9, 11.3991),
]
"""Timesteps of the U-ViT authors' sampler with 20 evaluations: start and midpoint of every update, to four digits."""


def model_with(scheduler: NoiseScheduler) -> CacheableTransformer:
    model = tiny_dit()
    model.scheduler = scheduler
    return model


def model_for(sampler: str) -> CacheableTransformer:
    if sampler == "flow-euler":
        return model_with(FlowMatchEulerDiscreteScheduler(shift=3.0))
    return tiny_dit()


def sampled(model: CacheableTransformer, solver: Solver) -> Tensor:
    noise, labels = noise_from_seeds([1, 2], model.image_shape), torch.tensor([0, 2])
    return sample_images(model, solver, noise, labels, Guidance(scale=1))


@torch.inference_mode()
def sampled_by_diffusers(model: CacheableTransformer, scheduler: Any, steps: int) -> Tensor:
    """The loop of diffusers' pipelines."""
    scheduler.set_timesteps(steps)
    sample = noise_from_seeds([1, 2], model.image_shape) * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep in scheduler.timesteps:
        output = model(sample, timestep.float().expand(2), torch.tensor([0, 2]), compute_all)
        sample = scheduler.step(output, timestep, sample).prev_sample
    return sample


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return ((ours - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("sampler", SOLVERS)
def test_every_solver_says_what_it_is_and_makes_finite_images(sampler: str) -> None:
    model = model_for(sampler)
    solver = make_solver(sampler, 6, model)
    identity = solver.identity(GUIDANCE)
    assert (identity.name, identity.steps, identity.order) == (sampler, 6, 2 if sampler == "dpm-solver-2" else 1)
    assert len(identity.timesteps) == 6
    assert sampled(model, solver).isfinite().all()


@pytest.mark.parametrize("sampler", SOLVERS)
def test_trajectories_of_one_solver_do_not_mix(sampler: str) -> None:
    solver = make_solver(sampler, 4, model_for(sampler))
    starts = [noise_from_seeds([seed], (1, 4, 4)) for seed in (1, 2)]

    def updated(advance: Any, step: int, sample: Tensor) -> Tensor:
        updated: Tensor = advance(step, sample, 0.3 * sample.sin())
        return updated

    together, advances = list(starts), [solver.begin(), solver.begin()]
    for step in range(4):
        together = [updated(advance, step, sample) for advance, sample in zip(advances, together, strict=True)]
    for start, wanted in zip(starts, together, strict=True):
        advance, sample = solver.begin(), start
        for step in range(4):
            sample = updated(advance, step, sample)
        assert torch.equal(sample, wanted)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_updates_ignore_channels_beyond_those_of_the_sample(sampler: str) -> None:
    solver = make_solver(sampler, 4, model_for(sampler))
    sample, output = noise_from_seeds([1], (1, 4, 4)), noise_from_seeds([2], (1, 4, 4))
    wider = torch.cat([output, torch.full_like(output, torch.nan)], dim=1)
    assert torch.equal(solver.begin()(0, sample, wider), solver.begin()(0, sample, output))


@pytest.mark.parametrize("first", [0, 1])
def test_dpm_solver_2_meets_the_authors_timesteps_in_the_models_own_time(first: int) -> None:
    model = tiny_uvit()
    model.first_timestep = first
    timesteps = make_solver("dpm-solver-2", 20, model).timesteps
    wanted = np.array(AUTHORS_TIMESTEPS).ravel() - (1 - first)
    assert timesteps == pytest.approx(wanted.tolist(), abs=1e-3)


def of_a_normal_distribution(sampler: str, steps: int, deviation: float) -> float:
    """The relative error of sampling data N(0, deviation^2), for which the exact solution has a closed form."""
    model = tiny_uvit()
    solver = make_solver(sampler, steps, model)
    knots = np.arange(1, 1001)
    log_alphas = np.log(model.scheduler.alphas_cumprod.double().numpy()) / 2

    def variances(timestep: float) -> tuple[float, float]:
        alpha_squared = float(np.exp(2 * np.interp(timestep, knots, log_alphas)))
        return alpha_squared * deviation**2, 1 - alpha_squared

    start = sample = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    advance = solver.begin()
    for step, timestep in enumerate(solver.timesteps):
        of_data, of_noise = variances(timestep)
        sample = advance(step, sample, of_noise**0.5 * sample / (of_data + of_noise))
    (first, last) = (sum(variances(timestep)) for timestep in (1000.0, 1.0))
    exact = start * (last / first) ** 0.5
    return abs((sample - exact) / exact).item()


@pytest.mark.parametrize("deviation", [0.5, 2.0])
def test_dpm_solver_2_is_of_second_order(deviation: float) -> None:
    coarse, fine = (of_a_normal_distribution("dpm-solver-2", steps, deviation) for steps in (400, 800))
    assert fine < 1e-2
    assert 3.3 < coarse / fine < 5


def test_dpm_solver_2_needs_whole_updates() -> None:
    with pytest.raises(ConfigError, match="take a multiple of 2") as caught:
        make_solver("dpm-solver-2", 21, tiny_uvit())
    assert caught.value.subject == "sampler.steps"


@pytest.mark.parametrize("step", [0, 1, 2, 5])
def test_dpm_solver_2_noises_at_whole_timesteps_of_the_model(step: int) -> None:
    model = tiny_uvit()
    solver = make_solver("dpm-solver-2", 6, model)
    timestep = solver.training_timestep(step)
    assert timestep == int(timestep)
    assert abs(timestep - solver.timesteps[step]) <= 0.5 + 1e-6
    clean, noise = noise_from_seeds([1], UVIT_IMAGE), noise_from_seeds([2], UVIT_IMAGE)
    wanted = model.scheduler.add_noise(clean, noise, torch.tensor([int(timestep) - 1]))
    assert torch.allclose(solver.add_noise(clean, noise, step), wanted, atol=1e-5)


UVIT_IMAGE = (UVIT_SHAPE.channels, UVIT_SHAPE.image_size, UVIT_SHAPE.image_size)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_dpm_solver_pp_2m_makes_the_images_of_diffusers_loop(spacing: str, steps: int) -> None:
    settings = {"timestep_spacing": spacing, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    model = model_with(DDIMScheduler(clip_sample=False, **settings))
    theirs = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero", **settings
    )
    ours = sampled(model, make_solver("dpm-solver-pp-2m", steps, model))
    assert relative_error(ours, sampled_by_diffusers(model, theirs, steps)) < 1e-5


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_dpm_solver_pp_2m_timesteps_fall_or_are_refused(spacing: str) -> None:
    model = model_with(DDIMScheduler(timestep_spacing=spacing, clip_sample=False))
    for steps in (2, 3, 50, 201, 333, 500, 501, 667, 999):
        timesteps = make_solver("dpm-solver-pp-2m", steps, model).timesteps
        assert len(timesteps) == steps
        assert all(before > after for before, after in pairwise(timesteps))
        assert timesteps[-1] >= 0


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_dpm_solver_pp_2m_refuses_steps_that_meet_a_timestep_twice(spacing: str) -> None:
    model = model_with(DDIMScheduler(timestep_spacing=spacing, clip_sample=False))
    with pytest.raises(ConfigError, match="twice") as caught:
        make_solver("dpm-solver-pp-2m", 1000, model)
    assert caught.value.subject == "sampler.steps"


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler_makes_the_images_of_diffusers_loop(shift: float, steps: int) -> None:
    model = model_with(FlowMatchEulerDiscreteScheduler(shift=shift))
    ours = sampled(model, make_solver("flow-euler", steps, model))
    theirs = sampled_by_diffusers(model, FlowMatchEulerDiscreteScheduler(shift=shift), steps)
    assert relative_error(ours, theirs) < 1e-5


def test_flow_euler_follows_a_straight_path_to_its_end() -> None:
    solver = make_solver("flow-euler", 5, model_for("flow-euler"))
    clean, noise = noise_from_seeds([1], (1, 4, 4)), noise_from_seeds([2], (1, 4, 4))
    advance, sample = solver.begin(), solver.add_noise(clean, noise, 0)
    for step in range(5):
        assert torch.allclose(sample, solver.add_noise(clean, noise, step), atol=1e-5)
        sample = advance(step, sample, noise - clean)
    assert torch.allclose(sample, clean, atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver-2", "dpm-solver-pp-2m"])
def test_solver_of_noise_is_refused_for_a_model_of_velocity(sampler: str) -> None:
    with pytest.raises(ConfigError, match=r"does not sample what tiny predicts; take one of flow-euler$") as caught:
        make_solver(sampler, 4, model_for("flow-euler"))
    assert caught.value.subject == "sampler.name"


def test_solver_of_velocity_is_refused_for_a_model_of_noise() -> None:
    with pytest.raises(ConfigError, match="take one of ddim, dpm-solver-2, dpm-solver-pp-2m") as caught:
        make_solver("flow-euler", 4, tiny_dit())
    assert caught.value.subject == "sampler.name"


@pytest.mark.parametrize("sampler", SOLVERS)
def test_more_steps_than_timesteps_are_refused(sampler: str) -> None:
    with pytest.raises(ConfigError, match=r"1002 are more than the model's 1000 timesteps") as caught:
        make_solver(sampler, 1002, model_for(sampler))
    assert caught.value.subject == "sampler.steps"


def test_every_other_evaluation_may_reuse_shifted_or_not() -> None:
    two = make_solver("dpm-solver-2", 8, tiny_uvit())
    assert two.cache_steps() == (2, 4, 6)
    assert two.cache_steps(shifted=False) == (1, 3, 5, 7)
    one = make_solver("ddim", 7, tiny_dit())
    assert one.cache_steps() == one.cache_steps(shifted=False) == (1, 3, 5)
