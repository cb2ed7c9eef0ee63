from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from unit_factories import tiny_dit

from l2c_ray.caching.dynamic import DYNAMIC_RULES, DynamicExecutor, Threshold
from l2c_ray.models.base import CacheableTransformer, units_of
from l2c_ray.sampling.loop import UnitHandlers, baseline_handlers, noise_from_seeds, sample_images
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance

UNITS = units_of(["blocks.0", "blocks.1"])
ALL = [1, 1, 1, 1]


def executor_of(name: str, threshold: float) -> DynamicExecutor:
    return DYNAMIC_RULES[name].executor(UNITS, Threshold(threshold=threshold))


def run(executor: DynamicExecutor, first_block: Sequence[tuple[float, float]]) -> list[list[float]]:
    """Outputs [steps][units] where the first block computes to these pairs, and the second to 10 and 20 + step."""
    outputs = []
    for step, (attention, mlp) in enumerate(first_block):
        handler = executor(step)
        called: list[int] = []
        row = []
        for unit, value in enumerate((attention, mlp, 10.0 + step, 20.0 + step)):

            def compute(unit: int = unit, value: float = value, called: list[int] = called) -> Tensor:
                called.append(unit)
                return torch.tensor([value, -value])

            row.append(handler(unit, compute)[0].item())
        assert [unit for unit, bit in enumerate(executor.computed[step]) if bit] == called
        outputs.append(row)
    return outputs


def test_first_block_cache_compares_with_the_last_step_in_full() -> None:
    executor = executor_of("first-block", 0.12)
    # Each step is near the one before, and the fourth far from the first.
    outputs = run(executor, [(1.0, 1.0), (1.05, 1.05), (1.1, 1.1), (1.15, 1.15), (1.2, 1.2)])
    assert executor.computed == [ALL, [1, 1, 0, 0], [1, 1, 0, 0], ALL, [1, 1, 0, 0]]
    assert [row[2:] for row in outputs] == [[10, 20], [10, 20], [10, 20], [13, 23], [13, 23]]
    assert outputs[2][:2] == pytest.approx([1.1, 1.1])


def test_first_block_cache_weighs_both_branches_together() -> None:
    # The attention's change of 1 is a tenth of both outputs, 1 + 9.
    changes = [(1.0, 9.0), (2.0, 9.0)]
    for threshold, second in ((0.11, [1, 1, 0, 0]), (0.09, ALL)):
        executor = executor_of("first-block", threshold)
        run(executor, changes)
        assert executor.computed == [ALL, second]


def test_first_block_cache_computes_at_a_change_of_the_threshold() -> None:
    executor = executor_of("first-block", 0.5)
    run(executor, [(1.0, 1.0), (1.5, 1.5)])
    assert executor.computed == [ALL, ALL]


def test_teacache_adds_up_the_changes_from_step_to_step_and_starts_anew() -> None:
    executor = executor_of("teacache", 0.6)
    # Back and forth: 0.25, 0.2, 0.25 make 0.7; a comparison with the first step would see 0.25 at most.
    outputs = run(executor, [(4.0, 1.0), (5.0, 9.0), (4.0, 1.0), (5.0, 9.0), (4.0, 1.0), (5.0, 9.0), (4.0, 1.0)])
    reused = [1, 0, 0, 0]
    assert executor.computed == [ALL, reused, reused, ALL, reused, reused, ALL]
    assert [row[1] for row in outputs] == [1, 1, 1, 9, 9, 9, 1]
    assert [row[3] for row in outputs] == [20, 20, 20, 23, 23, 23, 26]


@pytest.mark.parametrize("name", DYNAMIC_RULES)
def test_changes_are_relative_to_the_earlier_output(name: str) -> None:
    # A rise by all of the earlier output, which is half of the later one.
    for threshold, computes_all in ((0.75, True), (1.25, False)):
        executor = executor_of(name, threshold)
        run(executor, [(1.0, 1.0), (2.0, 2.0)])
        assert (executor.computed[1] == ALL) == computes_all


@pytest.mark.parametrize("name", DYNAMIC_RULES)
def test_outputs_of_zero_are_no_reason_to_reuse(name: str) -> None:
    executor = executor_of(name, 10)
    run(executor, [(0.0, 0.0)] * 3)
    assert executor.computed == [ALL] * 3


def sampled(model: CacheableTransformer, handlers: UnitHandlers, first_seed: int = 0) -> Tensor:
    noise = noise_from_seeds(range(first_seed, first_seed + 2), model.image_shape)
    solver = make_solver("ddim", 6, model)
    return sample_images(model, solver, noise, torch.tensor([0, 2]), Guidance(scale=1.5), handlers)


@pytest.mark.parametrize("name", DYNAMIC_RULES)
def test_at_threshold_0_the_images_are_the_baseline_s_bit_for_bit(name: str) -> None:
    model = tiny_dit()
    executor = executor_of(name, 0)
    assert torch.equal(sampled(model, executor), sampled(model, baseline_handlers))
    assert executor.computed == [ALL] * 6


@pytest.mark.parametrize(("name", "watched"), [("first-block", [1, 1, 0, 0]), ("teacache", [1, 0, 0, 0])])
def test_at_a_huge_threshold_only_what_is_watched_is_computed(name: str, watched: list[int]) -> None:
    executor = executor_of(name, 1e9)
    sampled(tiny_dit(), executor)
    assert executor.computed == [ALL] + [watched] * 5


@pytest.mark.parametrize("name", DYNAMIC_RULES)
def test_the_count_is_of_the_layers_that_really_ran(name: str) -> None:
    model = tiny_dit()
    ran = [0] * 4

    def count(unit: int) -> Callable[..., None]:
        def note(*_: object) -> None:
            ran[unit] += 1

        return note

    layers = [layer for block in model.transformer.transformer_blocks for layer in (block.attn1, block.ff)]
    for unit, layer in enumerate(layers):
        layer.register_forward_hook(count(unit))
    executor = executor_of(name, 0.1)
    sampled(model, executor)
    assert ran == [sum(column) for column in zip(*executor.computed, strict=True)]
    assert ran[0] == 6
    assert 1 < ran[-1] < 6


@pytest.mark.parametrize("name", DYNAMIC_RULES)
def test_requests_that_take_turns_do_not_mix(name: str) -> None:
    curves = [[(1.0, 1.0), (1.05, 1.0), (1.4, 1.2), (1.5, 1.2)], [(5.0, 2.0), (9.0, 9.0), (9.1, 9.0), (9.1, 9.0)]]
    alone = [executor_of(name, 0.2) for _ in curves]
    expected = [run(executor, curve) for executor, curve in zip(alone, curves, strict=True)]
    together = [executor_of(name, 0.2) for _ in curves]
    outputs: list[list[list[float]]] = [[], []]
    for step in range(4):
        for request, executor in enumerate(together):
            handler = executor(step)
            values = (*curves[request][step], 10.0 + step, 20.0 + step)
            row = [
                handler(unit, lambda value=value: torch.tensor([value, -value]))[0].item()
                for unit, value in enumerate(values)
            ]
            outputs[request].append(row)
    assert outputs == expected
    assert [executor.computed for executor in together] == [executor.computed for executor in alone]
