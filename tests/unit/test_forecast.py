"""A reused unit's value: the last one, or a forecast from the last two or three."""

import weakref
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from unit_factories import tiny_pipeline

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.caching.plan import Action, plan
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.schedule import Forecast, Provenance, Table

Coefficients = tuple[float, ...]


def table_of(bits: Sequence[int], coefficients: dict[int, Coefficients]) -> Table:
    """One unit over the steps, forecast at some of them."""
    forecast = tuple((coefficients.get(step, ()),) for step in range(len(bits)))
    return Table.of(tuple((bit,) for bit in bits), None, forecast)


def outputs(table: Table, computed: Sequence[float]) -> list[float]:
    """Output of the single unit at each step, where it would compute `computed[step]`."""
    executor = ScheduleExecutor(table)
    return [
        executor(step)(0, lambda value=value: torch.tensor(value, dtype=torch.float64)).item()
        for step, value in enumerate(computed)
    ]


@pytest.mark.parametrize(
    ("coefficients", "wanted"),
    [
        ((), 16.0),
        ((1.0,), 16 + (16 - 4)),
        ((-0.5,), 16 - 0.5 * (16 - 4)),
        ((1.0, 0.5), 16 + (16 - 4) + 0.5 * (16 - 2 * 4 + 1)),
        ((0.0, 2.0), 16 + 2 * (16 - 2 * 4 + 1)),
        ((0.0, 0.0), 16.0),
    ],
)
def test_forecast_sums_the_last_value_and_its_differences(coefficients: Coefficients, wanted: float) -> None:
    table = table_of((1, 1, 1, 0), {3: coefficients})
    assert outputs(table, [1, 4, 16, 1000]) == [1, 4, 16, wanted]


def test_values_are_those_computed_not_those_forecast() -> None:
    table = table_of((1, 1, 0, 0, 1, 0), {2: (1.0,), 3: (2.0,), 5: (1.0,)})
    assert outputs(table, [1, 4, 99, 99, 10, 99]) == [1, 4, 7, 10, 10, 16]


def test_forecast_that_adds_nothing_is_the_last_tensor_itself() -> None:
    executor = ScheduleExecutor(table_of((1, 1, 0), {2: (0.0,)}))
    executor(0)(0, lambda: torch.zeros(2))
    last = executor(1)(0, lambda: torch.ones(2))
    assert executor(2)(0, lambda: pytest.fail("it is computed")) is last


def test_forecast_leaves_the_values_it_is_made_of_alone() -> None:
    executor = ScheduleExecutor(table_of((1, 1, 0, 0), {2: (1.0,), 3: (1.0,)}))
    first = executor(0)(0, lambda: torch.ones(2))
    last = executor(1)(0, lambda: torch.full((2,), 3.0))
    forecasts = [executor(step)(0, lambda: torch.zeros(2)) for step in (2, 3)]
    assert (first.tolist(), last.tolist()) == ([1, 1], [3, 3])
    assert [forecast.tolist() for forecast in forecasts] == [[5, 5], [5, 5]]


@pytest.mark.parametrize(
    ("bits", "coefficients", "kept"),
    [
        ((1, 1, 0), {2: (0.5,)}, [1, 2, 0]),
        ((1, 1, 1, 0), {3: (0.5, 0.25)}, [1, 2, 3, 0]),
        ((1, 1, 1, 0), {3: (0.5,)}, [0, 1, 2, 0]),
        ((1, 1, 1, 0), {3: (0.0, 0.0)}, [0, 0, 1, 0]),
        ((1, 1, 0, 0), {2: (0.5,)}, [1, 2, 1, 0]),
        ((1, 1, 0, 1, 0), {2: (0.5,), 4: (0.5,)}, [1, 2, 1, 2, 0]),
        ((1, 1, 0, 1), {2: (0.5,)}, [1, 2, 0, 0]),
    ],
)
def test_as_many_values_are_kept_as_later_steps_need(
    bits: tuple[int, ...], coefficients: dict[int, Coefficients], kept: list[int]
) -> None:
    table = table_of(bits, coefficients)
    assert [row[0].keep for row in plan(table)] == kept
    executor = ScheduleExecutor(table)
    alive: list[weakref.ref[Tensor]] = []
    for step, bit in enumerate(bits):
        output = executor(step)(0, lambda: torch.zeros(1))
        if bit:
            alive.append(weakref.ref(output))
        del output
        assert sum(reference() is not None for reference in alive) == kept[step]


def test_plan_weighs_the_values_computed_last() -> None:
    table = table_of((1, 1, 1, 0, 0), {3: (0.5, 0.25), 4: (0.5,)})
    assert [row[0] for row in plan(table)] == [
        Action(None, 1),
        Action(None, 2),
        Action(None, 3),
        Action((1.75, -1.0, 0.25), 2),
        Action((1.5, -0.5), 0),
    ]


@given(bits=st.lists(st.integers(0, 1), max_size=6), wanted=st.lists(st.floats(-2, 2), min_size=14, max_size=14))
def test_any_forecast_is_the_formula_of_the_values_computed_so_far(bits: list[int], wanted: list[float]) -> None:
    bits = [1, *bits]
    coefficients = {
        step: tuple(wanted[2 * step : 2 * step + min(2, sum(bits[:step]) - 1)])
        for step, bit in enumerate(bits)
        if not bit
    }
    computed = [float(step**3 + 1) for step in range(len(bits))]
    given_out = outputs(table_of(bits, coefficients), computed)
    values: list[float] = []
    for step, bit in enumerate(bits):
        if bit:
            values.insert(0, computed[step])
            assert given_out[step] == values[0]
            continue
        first, second = (*coefficients[step], 0.0, 0.0)[:2]
        v0, v1, v2 = (*values, 0.0, 0.0)[:3]
        forecast = v0 + first * (v0 - v1) * (len(values) > 1) + second * (v0 - 2 * v1 + v2) * (len(values) > 2)
        assert given_out[step] == pytest.approx(forecast, abs=1e-9)


def test_pipeline_samples_under_a_forecast() -> None:
    pipeline = tiny_pipeline(steps=4)
    compute = ((1,) * 4, (1,) * 4, (0,) * 4, (1,) * 4)
    provenance = Provenance(policy="test", settings={})

    def images(forecast: Forecast | None) -> Tensor:
        schedule = make_schedule(pipeline, Table.of(compute, None, forecast), provenance)
        return pipeline.generate([0, 1], [5, 6], schedule)

    def forecast(*coefficients: float) -> Forecast:
        return (((),) * 4, ((),) * 4, (coefficients,) * 4, ((),) * 4)

    assert torch.equal(images(forecast()), images(None))
    assert not torch.allclose(images(forecast(1.0)), images(None), atol=1e-5)
