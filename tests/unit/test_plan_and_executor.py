import io
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from unit_factories import tiny_pipeline

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.caching.pipeline import Pipeline, encode_png, to_pixels
from l2c_ray.caching.plan import Action, plan
from l2c_ray.errors import L2CError, ScheduleError
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.sampling.loop import baseline_handlers
from l2c_ray.schedule import Guidance, Mask, Provenance, Schedule, Table


def random_table(steps: int, units: int, seed: int) -> Table:
    rows = torch.randint(2, (steps - 1, units), generator=torch.Generator().manual_seed(seed)).tolist()
    return Table.of(((1,) * units, *map(tuple, rows)))


def scheduled(pipeline: Pipeline, table: Table) -> Schedule:
    return make_schedule(pipeline, table, Provenance(policy="test", settings={}))


@contextmanager
def recorded_computations(model: CacheableTransformer) -> Iterator[list[list[int]]]:
    """The units whose layers really ran in each evaluation, seen by hooks on diffusers' own layers."""
    evaluations: list[list[int]] = []
    blocks = model.transformer.transformer_blocks
    layers = [layer for block in blocks for layer in (block.attn1, block.ff)]

    def note(unit: int) -> Callable[..., None]:
        return lambda *_: evaluations[-1].append(unit)

    hooks = [layer.register_forward_hook(note(unit)) for unit, layer in enumerate(layers)]
    hooks.append(model.register_forward_pre_hook(lambda *_: evaluations.append([])))
    try:
        yield evaluations
    finally:
        for hook in hooks:
            hook.remove()


COMPUTE, LAST = None, (1.0,)


def test_plan_is_made_once_for_a_table() -> None:
    assert plan(random_table(5, 3, 0)) is plan(random_table(5, 3, 0))
    assert plan(random_table(5, 3, 0)) is not plan(random_table(5, 3, 1))


@pytest.mark.parametrize(
    ("column", "actions"),
    [
        ((1,), [(COMPUTE, 0)]),
        ((1, 1), [(COMPUTE, 0), (COMPUTE, 0)]),
        ((1, 0), [(COMPUTE, 1), (LAST, 0)]),
        ((1, 0, 0, 0), [(COMPUTE, 1), (LAST, 1), (LAST, 1), (LAST, 0)]),
        ((1, 0, 1, 0), [(COMPUTE, 1), (LAST, 0), (COMPUTE, 1), (LAST, 0)]),
        ((1, 1, 0, 1), [(COMPUTE, 0), (COMPUTE, 1), (LAST, 0), (COMPUTE, 0)]),
    ],
)
def test_plan_keeps_an_output_as_long_as_it_is_reused(
    column: tuple[int, ...], actions: list[tuple[tuple[float, ...] | None, int]]
) -> None:
    table = Table.of(tuple((bit,) for bit in column))
    assert [row[0] for row in plan(table)] == [Action(weights, keep) for weights, keep in actions]


def test_plan_has_a_row_of_actions_for_each_step() -> None:
    kept, computed, dropped = Action(COMPUTE, 1), Action(COMPUTE, 0), Action(LAST, 0)
    assert plan(Table.of(((1, 1), (0, 1), (1, 0)))) == ((kept, computed), (dropped, kept), (computed, dropped))


@given(
    st.integers(1, 5).flatmap(
        lambda units: st.lists(st.tuples(*[st.integers(0, 1)] * units), max_size=6).map(
            lambda rows: ((1,) * units, *rows)
        )
    )
)
def test_executor_gives_the_last_computed_value_and_asks_for_no_other(mask: Mask) -> None:
    executor = ScheduleExecutor(Table.of(mask))
    newest: dict[int, Tensor] = {}
    for step, row in enumerate(mask):
        handler = executor(step)
        for unit, bit in enumerate(row):
            fresh = torch.tensor([step, unit])
            asked: list[int] = []

            def compute(fresh: Tensor = fresh, asked: list[int] = asked) -> Tensor:
                asked.append(1)
                return fresh

            output = handler(unit, compute)
            newest[unit] = fresh if bit else newest[unit]
            assert len(asked) == bit
            assert output is newest[unit]


def test_executor_holds_no_tensor_longer_than_it_is_reused() -> None:
    mask: Mask = ((1, 1, 1), (0, 1, 0), (0, 0, 1), (1, 0, 1))
    executor = ScheduleExecutor(Table.of(mask))
    alive: dict[tuple[int, int], weakref.ref[Tensor]] = {}
    held = []
    for step, row in enumerate(mask):
        handler = executor(step)
        for unit, bit in enumerate(row):
            output = handler(unit, lambda: torch.zeros(1))
            if bit:
                alive[step, unit] = weakref.ref(output)
            del output
        held.append({key for key, reference in alive.items() if reference() is not None})
    assert held == [{(0, 0), (0, 2)}, {(0, 0), (1, 1)}, {(1, 1)}, set()]
    assert executor is not None


@pytest.mark.parametrize("seed", [0, 1])
def test_exactly_the_units_of_the_mask_are_computed(digits_pipeline: Pipeline, seed: int) -> None:
    table = random_table(4, 24, seed)
    schedule = scheduled(digits_pipeline, table)
    with recorded_computations(digits_pipeline.model) as evaluations:
        digits_pipeline.generate([3, 4], [0, 1], schedule)
    assert evaluations == [[unit for unit, bit in enumerate(row) if bit] for row in table.compute]


def test_fixed_interval_of_2_computes_every_second_step(
    digits_pipeline: Pipeline,
) -> None:
    schedule = scheduled(digits_pipeline, fixed_interval(4, 24, 2))
    with recorded_computations(digits_pipeline.model) as evaluations:
        digits_pipeline.generate([3], [0], schedule)
    assert evaluations == [list(range(24)), [], list(range(24)), []]


def test_fixed_interval_counts_from_step_0() -> None:
    assert fixed_interval(5, 2, 3).compute == ((1, 1), (0, 0), (0, 0), (1, 1), (0, 0))


def test_schedule_that_computes_everything_gives_the_baseline_bit_for_bit(digits_pipeline: Pipeline) -> None:
    schedule = scheduled(digits_pipeline, Table.of(((1,) * 24,) * 4))
    labels, seeds = [3, 1, 4], [1, 5, 9]
    assert torch.equal(digits_pipeline.generate(labels, seeds, schedule), digits_pipeline.generate(labels, seeds))


def test_schedule_that_reuses_gives_other_images_than_the_baseline(digits_pipeline: Pipeline) -> None:
    schedule = scheduled(digits_pipeline, fixed_interval(4, 24, 2))
    assert not torch.allclose(
        digits_pipeline.generate([3], [1], schedule), digits_pipeline.generate([3], [1]), atol=1e-3
    )


@pytest.mark.parametrize("reusing", [False, True])
def test_batch_of_n_gives_the_images_of_n_batches_of_one(digits_pipeline: Pipeline, reusing: bool) -> None:
    schedule = scheduled(digits_pipeline, random_table(4, 24, 2)) if reusing else None
    labels, seeds = [0, 5, 9], [7, 8, 7]
    together = digits_pipeline.generate(labels, seeds, schedule)
    apart = digits_pipeline.generate(labels, seeds, schedule, batch_size=1)
    assert together.shape == (3, 1, 8, 8)
    assert torch.allclose(together, apart, atol=1e-4)


def test_schedule_of_another_guidance_scale_is_refused() -> None:
    schedule = scheduled(tiny_pipeline(guidance=Guidance(scale=2.0)), Table.of(((1,) * 4,) * 4))
    with pytest.raises(ScheduleError, match=r"sampler\.guidance"):
        tiny_pipeline().generate([0], [0], schedule)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_labels_without_a_seed_each_are_refused(scale: float) -> None:
    with pytest.raises((ValueError, L2CError)):
        tiny_pipeline(guidance=Guidance(scale=scale)).generate([0, 1], [5])


def test_baseline_asks_for_every_unit() -> None:
    assert baseline_handlers(3)(0, lambda: torch.ones(1)) == torch.ones(1)


def test_pixels_are_rounded_and_clipped() -> None:
    images = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    assert to_pixels(images).tolist() == [0, 0, 64, 128, 191, 255, 255]


def test_png_has_the_pixels() -> None:
    image = torch.linspace(-1, 1, 64).reshape(1, 8, 8)
    opened = Image.open(io.BytesIO(encode_png(image)))
    assert (opened.format, opened.mode, opened.size) == ("PNG", "L", (8, 8))
    assert list(opened.tobytes()) == to_pixels(image).flatten().tolist()
