"""Schedules that somebody has damaged or built to do harm, all under the hash that belongs to them."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mutations import fuzzed, mutated
from unit_factories import model_identity, sampler_identity, sealed, small_schedule

from l2c_ray.cli.output import console, schedule_summary, schedule_table
from l2c_ray.errors import L2CError, ScheduleError
from l2c_ray.schedule import MOST_STEPS, Forecast, Mask, Quality, Schedule, Table
from l2c_ray.storage.files import read_text

WHOLE = small_schedule(
    table=Table.of(((1,) * 4, (1,) * 4, (0, 1, 0, 1)), None, (((),) * 4, ((),) * 4, ((0.5,), (), (), ()))),
    quality=Quality(protocol="frontier/1", metrics={"mse": 1e-3}),
)
CONTENT: dict[str, Any] = json.loads(WHOLE.to_json())

ODD = (
    int("9" * 400), -int("9" * 400), 10**18, 0, -1, 0.5, 1e308, True, None, "", "a\nb\x1b[31m\u202e", "[red]", "\\",
    "k" * 100_000, [], [[]], {}, {"a\n": {}}, [0] * 5000, [[1]] * 5000, [["x"]] * 5000,
)  # fmt: skip


def places(content: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value below `content`."""
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, part in parts:
        yield (*path, key)
        yield from places(part, (*path, key))


def refusal(text: str) -> str:
    with pytest.raises(ScheduleError) as caught:
        Schedule.from_json(text, source="some.json")
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 2000
    return message


def read(text: str, source: str = "some.json") -> Schedule | str:
    """The schedule, or why it is refused."""
    try:
        return Schedule.from_json(text, source)
    except L2CError as error:
        return str(error)


def require_sound(outcome: Schedule | str) -> None:
    """All that `l2c schedule show` tells of a schedule can be told, and a refusal is one line."""
    if isinstance(outcome, str):
        assert outcome.isprintable()
        assert len(outcome) < 2000
        return
    assert read(outcome.to_json()) == outcome
    json.dumps(schedule_summary(outcome), allow_nan=False)
    with console.capture() as shown:
        console.print(schedule_table(outcome))
    assert shown.get().replace("\n", "").isprintable()


@fuzzed
@given(path=st.sampled_from(list(places(CONTENT))), value=st.sampled_from(ODD))
@example(path=("cost", "layers", "full"), value=ODD[0])
@example(path=("provenance", "settings"), value={f"key {number}": None for number in range(50_000)})
def test_value_that_does_not_belong_there_is_refused_or_told_soundly(path: tuple[str | int, ...], value: Any) -> None:
    content = json.loads(WHOLE.to_json())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    require_sound(read(sealed(content)))


@fuzzed
@given(content=mutated(WHOLE.to_json().encode()))
def test_damaged_file_is_refused_or_says_what_it_said(content: bytes) -> None:
    # Bytes that are no text are refused by whatever reads the file.
    outcome = read(content.decode(errors="replace"))
    assert outcome == WHOLE or (isinstance(outcome, str) and "some.json" in outcome)
    require_sound(outcome)


def test_count_of_400_digits_is_refused_naming_the_field() -> None:
    content = json.loads(WHOLE.to_json())
    content["cost"]["layers"]["full"] = int("9" * 400)
    assert refusal(sealed(content)).startswith("cost.layers.full in some.json: ")


@pytest.mark.parametrize("steps", [MOST_STEPS + 1, 20_000])
def test_more_steps_than_a_sampler_takes_are_refused_naming_the_field(steps: int) -> None:
    content = json.loads(WHOLE.to_json())
    content["table"]["compute"] = [[1]] * steps
    assert "table.compute" in refusal(sealed(content))
    content = json.loads(WHOLE.to_json())
    content["sampler"] |= {"steps": steps, "timesteps": [0] * steps}
    assert "sampler.steps" in refusal(sealed(content))


@pytest.mark.parametrize(
    "text",
    [
        '{"table":{"compute":[' + "[1]," * 2_000_000 + "[1]]}}",
        "[" + "[]," * 2_000_000 + "[]]",
        "[" + "1," * 4_000_000 + "1]",
    ],
)
def test_millions_of_values_are_refused_before_they_are_read(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(json, "loads")
    assert "more than any schedule" in refusal(text)


@contextmanager
def counted_lines() -> Iterator[list[int]]:
    """How many lines of Python the context runs."""
    count = [0]

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        count[0] += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


def lines_to_check(steps: int) -> int:
    mask: Mask = ((1, 1), (1, 1), *(((0, 1), (1, 0)) * (steps // 2 - 1)))
    forecast: Forecast = tuple(tuple(() if bit else (0.5,) for bit in row) for row in mask)
    with counted_lines() as count:
        Table.of(mask, None, forecast)
    return count[0]


def test_work_of_checking_a_table_grows_with_its_steps_and_not_their_square() -> None:
    few, many = lines_to_check(MOST_STEPS // 8), lines_to_check(MOST_STEPS)
    assert 6 < many / few < 10


def test_largest_table_is_accepted() -> None:
    steps = MOST_STEPS
    schedule = small_schedule(
        model=model_identity(depth=1, units=("blocks.0.mlp",)),
        sampler=sampler_identity(steps=steps, timesteps=(0.0,) * steps),
        table=Table.of(((1,),) * steps),
    )
    assert Schedule.from_json(schedule.to_json(), source="x") == schedule


def test_file_of_schedule_is_not_read_beyond_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(L2CError, match="too many to be what is read here"):
        read_text(path)
