"""The contract of model families; a new one is an entry of `FAMILIES`."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from plain_forward import plain_dit, plain_uvit
from tiny_models import tiny_dit, tiny_uvit
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.models.base import CacheableTransformer, UnitHandler, compute_all
from l2c_ray.sampling.loop import UnitHandlers, evaluate_guided, noise_from_seeds, sample_images
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance, Provenance, Schedule, Table

STEPS = 6


@dataclass(frozen=True)
class Family:
    """A small model, and the same model's forward pass from elsewhere."""

    make: Callable[[], CacheableTransformer]
    plain: Callable[[Any, Tensor, Tensor, Tensor], Tensor]
    samplers: tuple[str, ...]
    guidance: Guidance


NOISE_SAMPLERS = ("ddim", "dpm-solver-2", "dpm-solver-pp-2m")

FAMILIES = {
    "dit": Family(tiny_dit, plain_dit, NOISE_SAMPLERS, Guidance(scale=1.5)),
    "dit-learned-sigma": Family(
        lambda: tiny_dit(channels=4, out_channels=8), plain_dit, NOISE_SAMPLERS, Guidance(scale=4.0, rule="first-three")
    ),
    "uvit": Family(tiny_uvit, plain_uvit, NOISE_SAMPLERS, Guidance(scale=0.4, rule="beyond")),
}


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def model(family: Family) -> CacheableTransformer:
    return family.make()


@pytest.fixture
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    """A family under one of its samplers, with and without guidance."""
    name, sampler, guided = request.param
    family = FAMILIES[name]
    model = family.make()
    return Pipeline(model, make_solver(sampler, STEPS, model), family.guidance if guided else Guidance(scale=1))


every_pipeline = pytest.mark.parametrize(
    "pipeline",
    [
        pytest.param((name, sampler, guided), id=f"{name}-{sampler}-{'guided' if guided else 'unguided'}")
        for name, family in FAMILIES.items()
        for sampler, guided in product(family.samplers, (True, False))
    ],
    indirect=True,
)


def inputs(model: CacheableTransformer) -> tuple[Tensor, Tensor, Tensor]:
    """Three samples at times and labels of their own, the null label among them."""
    labels = torch.tensor([0, 2, model.null_label])
    return noise_from_seeds([1, 2, 3], model.image_shape), torch.tensor([999.0, 421.5, 1.0]), labels


def random_table(units: int, seed: int) -> Table:
    rows = torch.randint(2, (STEPS - 1, units), generator=torch.Generator().manual_seed(seed)).tolist()
    return Table.of(((1,) * units, *map(tuple, rows)))


def scheduled(pipeline: Pipeline, table: Table) -> Schedule:
    return make_schedule(pipeline, table, Provenance(policy="test", settings={}))


def sample(pipeline: Pipeline, handlers: UnitHandlers) -> Tensor:
    model = pipeline.model
    noise = noise_from_seeds([7], model.image_shape)
    return sample_images(model, pipeline.solver, noise, torch.tensor([2]), pipeline.guidance, handlers)


def test_units_are_attention_and_mlp_of_every_block_by_name(model: CacheableTransformer) -> None:
    names = [unit.name for unit in model.units]
    assert len(set(names)) == len(names) == 2 * model.depth
    assert [unit.kind for unit in model.units] == ["attention", "mlp"] * model.depth
    assert model.identity().units == tuple(names)


def test_every_unit_is_asked_for_once_and_in_order(model: CacheableTransformer) -> None:
    asked: list[int] = []

    def handle(unit: int, compute: Callable[[], Tensor]) -> Tensor:
        asked.append(unit)
        return compute()

    model(*inputs(model), handle)
    assert asked == list(range(len(model.units)))


def test_full_pass_is_that_of_the_plain_model(family: Family, model: CacheableTransformer) -> None:
    ours, plain = model(*inputs(model), compute_all), family.plain(model, *inputs(model))
    assert ours.shape == plain.shape
    assert (ours - plain).norm() < 1e-5 * plain.norm()


def test_every_unit_makes_a_difference(model: CacheableTransformer) -> None:
    full = model(*inputs(model), compute_all)
    for skipped in range(len(model.units)):

        def handle(unit: int, compute: Callable[[], Tensor], skipped: int = skipped) -> Tensor:
            return torch.zeros_like(compute()) if unit == skipped else compute()

        assert (model(*inputs(model), handle) - full).norm() > 1e-5 * full.norm()


@every_pipeline
def test_all_compute_schedule_is_the_baseline_bit_for_bit(pipeline: Pipeline) -> None:
    everything = scheduled(pipeline, Table.of(((1,) * len(pipeline.model.units),) * STEPS))
    labels, seeds = [0, 2, 1], [1, 5, 9]
    assert torch.equal(pipeline.generate(labels, seeds, everything), pipeline.generate(labels, seeds))


@every_pipeline
def test_skipped_units_are_not_called(pipeline: Pipeline) -> None:
    table = random_table(len(pipeline.model.units), seed=0)
    executor = ScheduleExecutor(table)
    calls: list[list[int]] = []

    def counted(step: int) -> UnitHandler:
        handler = executor(step)
        calls.append([0] * len(pipeline.model.units))

        def counting(unit: int, compute: Callable[[], Tensor]) -> Tensor:
            def counted_compute() -> Tensor:
                calls[-1][unit] += 1
                return compute()

            return handler(unit, counted_compute)

        return counting

    sample(pipeline, counted)
    assert tuple(map(tuple, calls)) == table.compute


@every_pipeline
def test_the_work_done_is_what_the_schedule_says(pipeline: Pipeline) -> None:
    schedule = scheduled(pipeline, random_table(len(pipeline.model.units), seed=1))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        sample(pipeline, ScheduleExecutor(schedule.table))
    evaluations = 2 if pipeline.guidance.needs_unlabelled else 1
    assert counter.get_total_flops() // 2 == evaluations * schedule.cost.with_attention.cached


@every_pipeline
def test_a_request_leaves_nothing_behind_for_the_next(pipeline: Pipeline) -> None:
    table = random_table(len(pipeline.model.units), seed=2)
    first = sample(pipeline, ScheduleExecutor(table))
    sample(pipeline, ScheduleExecutor(random_table(len(pipeline.model.units), seed=3)))
    assert torch.equal(sample(pipeline, ScheduleExecutor(table)), first)


@every_pipeline
def test_batch_of_n_is_n_batches_of_one(pipeline: Pipeline) -> None:
    schedule = scheduled(pipeline, random_table(len(pipeline.model.units), seed=4))
    labels, seeds = [0, 2, 1], [7, 8, 7]
    together = pipeline.generate(labels, seeds, schedule)
    apart = pipeline.generate(labels, seeds, schedule, batch_size=1)
    assert together.shape == (3, *pipeline.model.image_shape)
    assert (together - apart).norm() < 1e-4 * apart.norm()


@every_pipeline
def test_interleaved_requests_do_not_mix(pipeline: Pipeline) -> None:
    model, solver, guidance = pipeline.model, pipeline.solver, pipeline.guidance
    tables = [random_table(len(model.units), seed) for seed in (5, 6)]
    labels = [torch.tensor([2, 0]), torch.tensor([1])]
    executors = [ScheduleExecutor(table) for table in tables]
    advances = [solver.begin() for _ in tables]
    samples = [noise_from_seeds(range(len(wanted)), model.image_shape) for wanted in labels]
    with torch.inference_mode():
        for step, time in enumerate(solver.timesteps):
            for index, executor in enumerate(executors):
                output = evaluate_guided(model, samples[index], time, labels[index], guidance, executor(step))
                samples[index] = advances[index](step, samples[index], output)
    for table, wanted, made in zip(tables, labels, samples, strict=True):
        alone = pipeline.generate(wanted.tolist(), range(len(wanted)), scheduled(pipeline, table))
        assert torch.equal(made, alone)


@every_pipeline
def test_reuse_and_guidance_change_the_images(pipeline: Pipeline) -> None:
    full = sample(pipeline, lambda step: compute_all)
    units = len(pipeline.model.units)
    reused = sample(pipeline, ScheduleExecutor(Table.of(((1,) * units, *((0,) * units for _ in range(1, STEPS))))))
    assert (reused - full).norm() > 1e-3 * full.norm()
    other = Pipeline(pipeline.model, pipeline.solver, Guidance(scale=7.0))
    assert (sample(other, lambda step: compute_all) - full).norm() > 1e-3 * full.norm()
