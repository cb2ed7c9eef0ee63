"""Tables: the part of a schedule that is executed, with its masks and forecasts."""

from typing import Any

import pytest
from unit_factories import model_identity, sampler_identity, small_schedule

from l2c_ray.errors import ScheduleError
from l2c_ray.schedule import Forecast, Guidance, Mask, Schedule, Table

COLUMN: Mask = ((1,), (1,), (1,), (0,), (0,), (1,))
"""One unit over six steps."""


def forecast_at(step: int, *coefficients: float) -> Forecast:
    return tuple((coefficients if at == step else (),) for at in range(len(COLUMN)))


def refusal(*arguments: Any) -> str:
    with pytest.raises(ScheduleError) as caught:
        Table.of(*arguments)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_cache_steps_are_those_that_reuse_something_unless_given() -> None:
    assert Table.of(COLUMN).cache_steps == (3, 4)
    assert Table.of(COLUMN, (1, 3, 4)).cache_steps == (1, 3, 4)
    assert Table.of(((1,), (1,))).cache_steps == ()


@pytest.mark.parametrize("cache_steps", [(0, 3, 4), (4, 3), (3, 3, 4), (3, 4, 6), (-1, 3, 4)])
def test_cache_steps_that_are_no_rising_steps_after_the_first_are_refused(cache_steps: tuple[int, ...]) -> None:
    assert "cache_steps are not rising numbers from 1 to 5" in refusal(COLUMN, cache_steps)


def test_reuse_at_a_step_that_is_no_cache_step_is_refused_naming_the_step() -> None:
    assert "reuses at step 4, which is not one of cache_steps" in refusal(COLUMN, (3,))


@pytest.mark.parametrize("mask", [(), ((),), ((1, 0),), ((1,), (2,)), ((1, 1), (1,))])
def test_mask_that_is_empty_or_not_binary_or_ragged_or_reuses_at_first_is_refused(mask: Mask) -> None:
    assert "compute" in refusal(mask)


@pytest.mark.parametrize("coefficients", [(), (0.5,), (0.5, -0.25)])
def test_forecast_of_a_reused_unit_has_up_to_two_coefficients(coefficients: tuple[float, ...]) -> None:
    table = Table.of(COLUMN, None, forecast_at(3, *coefficients))
    assert table.forecast is not None
    assert table.forecast[3] == (coefficients,)


@pytest.mark.parametrize(
    ("mask", "step", "coefficients", "most"),
    [
        pytest.param(COLUMN, 5, (0.5,), 0, id="where the unit is computed"),
        pytest.param(COLUMN, 3, (0.5, 0.5, 0.5), 2, id="more than two"),
        pytest.param(((1,), (0,)), 1, (0.5,), 0, id="after one value"),
        pytest.param(((1,), (1,), (0,)), 2, (0.5, 0.5), 1, id="after two values"),
        pytest.param(((1,), (0,), (1,), (0,)), 3, (0.5, 0.5), 1, id="a reuse computes no value"),
    ],
)
def test_forecast_from_values_that_are_not_there_is_refused_naming_step_and_unit(
    mask: Mask, step: int, coefficients: tuple[float, ...], most: int
) -> None:
    forecast = tuple((coefficients if at == step else (),) for at in range(len(mask)))
    message = f"{len(coefficients)} coefficients, not at most {most}, at step {step} for unit 0"
    assert message in refusal(mask, None, forecast)


@pytest.mark.parametrize("forecast", [(), ((),) * 6, forecast_at(3)[:5], ((((), ()),) * 6)])
def test_forecast_of_another_shape_than_the_mask_is_refused(forecast: Forecast) -> None:
    assert "forecast has another shape than compute" in refusal(COLUMN, None, forecast)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_forecast_that_is_not_finite_is_refused_naming_the_place(value: float) -> None:
    assert "forecast.3.0.0" in refusal(COLUMN, None, forecast_at(3, value))


def test_forecast_survives_writing_and_reading() -> None:
    sampler = sampler_identity(steps=6, timesteps=(9.0, 8.0, 7.0, 6.0, 5.0, 4.0))
    model = model_identity(depth=1, units=("blocks.0.mlp",))
    table = Table.of(COLUMN, (3, 4), forecast_at(4, 0.1, -1e-9))
    schedule = small_schedule(model=model, sampler=sampler, table=table)
    again = Schedule.from_json(schedule.to_json(), source="x")
    assert again.table == table
    assert again.to_json() == schedule.to_json()
    assert schedule.sha256 != small_schedule(model=model, sampler=sampler, table=Table.of(COLUMN)).sha256


def test_schedule_of_no_weights_in_particular_is_for_any() -> None:
    schedule = small_schedule(model=model_identity(weights_sha256=None))
    for weights in (None, "a" * 64, "c" * 64):
        schedule.require(model_identity(weights_sha256=weights), sampler_identity())
    assert Schedule.from_json(schedule.to_json(), source="x").model.weights_sha256 is None


def test_schedule_of_no_weights_in_particular_is_still_of_one_architecture() -> None:
    schedule = small_schedule(model=model_identity(weights_sha256=None))
    with pytest.raises(ScheduleError, match=r"model\.family"):
        schedule.require(model_identity(family="uvit"), sampler_identity())


def test_schedule_of_certain_weights_is_refused_for_others() -> None:
    with pytest.raises(ScheduleError, match=r"model\.weights_sha256"):
        small_schedule().require(model_identity(weights_sha256="c" * 64), sampler_identity())


@pytest.mark.parametrize(
    ("guidance", "needed"),
    [
        (Guidance(scale=1), False),
        (Guidance(scale=0), True),
        (Guidance(scale=1, rule="first-three"), False),
        (Guidance(scale=0, rule="beyond"), False),
        (Guidance(scale=1, rule="beyond"), True),
    ],
)
def test_unlabelled_evaluation_is_needed_where_it_changes_the_result(guidance: Guidance, needed: bool) -> None:
    assert guidance.needs_unlabelled == needed
