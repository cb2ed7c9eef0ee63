import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from unit_factories import MASK, cost, model_identity, sampler_identity, sealed, small_schedule

from l2c_ray.errors import ScheduleError
from l2c_ray.schedule import Guidance, Mask, Quality, Schedule, Table

Content = dict[str, Any]


def refusal(text: str) -> str:
    with pytest.raises(ScheduleError) as caught:
        Schedule.from_json(text, source="some.json")
    message = str(caught.value)
    assert "some.json" in message
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def changed(*path: str | int, to: Any) -> Callable[[Content], None]:
    """An edit that puts a value at a path of the content."""

    def edit(content: Content) -> None:
        place: Any = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return edit


def content_of(schedule: Schedule) -> Content:
    content: Content = json.loads(schedule.to_json())
    return content


def test_round_trip_is_byte_identical() -> None:
    text = small_schedule(quality=Quality(protocol="frontier/1", metrics={"mse": 1e-3})).to_json()
    assert Schedule.from_json(text, source="x").to_json() == text


def test_hash_is_that_of_the_canonical_json_of_every_other_field() -> None:
    schedule = small_schedule()
    assert schedule.sha256 == json.loads(sealed(content_of(schedule)))["sha256"]


def test_same_content_gives_the_same_hash_and_any_change_another() -> None:
    assert small_schedule().sha256 == small_schedule().sha256
    other = small_schedule(table=Table.of((MASK[0], MASK[1], (1, 1, 1, 1))))
    assert other.sha256 != small_schedule().sha256


def test_layout_of_the_text_does_not_matter() -> None:
    schedule = small_schedule()
    assert Schedule.from_json(json.dumps(content_of(schedule), indent=2), source="x") == schedule


def test_measured_quality_comes_under_a_new_hash_and_changes_nothing_else() -> None:
    plain = small_schedule()
    measured = plain.with_quality(Quality(protocol="frontier/1", metrics={"mse": 0.25}))
    assert measured.sha256 != plain.sha256
    assert {k: v for k, v in content_of(measured).items() if k not in ("quality", "sha256")} == {
        k: v for k, v in content_of(plain).items() if k not in ("quality", "sha256")
    }


def test_schedule_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        small_schedule().table = Table.of(MASK)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        pytest.param(changed("colour", to="red"), "colour", id="unknown field"),
        pytest.param(changed("model", "colour", to="red"), "model.colour", id="unknown field of a part"),
        pytest.param(lambda content: content.pop("cost"), "cost", id="missing field"),
        pytest.param(
            changed("table", to={"compute": MASK[:2], "cache_steps": [1]}),
            "table.compute has 2 rows",
            id="too few rows",
        ),
        pytest.param(
            lambda content: content["table"]["compute"].append([1] * 4), "table.compute has 4 rows", id="too many rows"
        ),
        pytest.param(
            lambda content: content["table"]["compute"][2].pop(),
            "table.compute in some.json: has 3 values at step 2",
            id="short row",
        ),
        pytest.param(
            lambda content: content["table"]["compute"][1].append(1),
            "table.compute in some.json: has 5 values",
            id="long row",
        ),
        pytest.param(changed("table", "compute", to=[]), "table.compute", id="no rows"),
        pytest.param(changed("table", "compute", to=[[], [], []]), "table.compute", id="no units"),
        pytest.param(changed("sampler", "guidance", "rule", to="other"), "sampler.guidance.rule", id="unknown rule"),
        pytest.param(changed("table", "compute", 1, 2, to=2), "compute", id="mask holds 2"),
        pytest.param(changed("table", "compute", 1, 2, to=-1), "compute", id="mask holds -1"),
        pytest.param(changed("table", "compute", 1, 2, to=0.5), "table.compute.1.2", id="mask holds a fraction"),
        pytest.param(changed("table", "compute", 1, 2, to=True), "table.compute.1.2", id="mask holds a boolean"),
        pytest.param(changed("table", "compute", 1, 2, to="1"), "table.compute.1.2", id="mask holds text"),
        pytest.param(changed("table", "compute", 0, 3, to=0), "compute", id="reuse at step 0"),
        pytest.param(changed("format", to="l2c-schedule/2"), "format", id="future version"),
        pytest.param(changed("model", "depth", to="2"), "model.depth", id="wrong type"),
        pytest.param(changed("model", "weights_sha256", to="abc"), "model.weights_sha256", id="no hash of weights"),
        pytest.param(changed("sampler", "timesteps", to=[999.0]), "timesteps", id="timesteps of other length"),
        pytest.param(
            changed("sampler", "guidance", "scale", to=-1.0), "sampler.guidance.scale", id="negative guidance"
        ),
        pytest.param(changed("sampler", "timesteps", to=[999.0, 0.0, 500.0]), "timesteps rises", id="rising"),
        pytest.param(changed("sampler", "timesteps", 2, to=-1.0), "sampler.timesteps.2", id="negative timestep"),
        pytest.param(changed("sampler", "name", to="a/b"), "sampler.name", id="sampler name with a slash"),
        pytest.param(changed("model", "name", to=""), "model.name", id="no model name"),
        pytest.param(changed("model", "name", to="../digits"), "model.name", id="model name is a path"),
        pytest.param(changed("model", "name", to="a' or 1=1"), "model.name", id="model name with a quote"),
        pytest.param(changed("model", "family", to="dit\n"), "model.family", id="family with a line end"),
        pytest.param(changed("model", "depth", to=3), "depth is 3, but units are of 2 blocks", id="depth too large"),
        pytest.param(changed("model", "depth", to=1), "depth is 1, but units are of 2 blocks", id="depth too small"),
        pytest.param(changed("model", "units", 3, to="blocks.1.attention"), "units has blocks.1.att", id="unit twice"),
        pytest.param(changed("model", "units", 1, to=""), "model.units.1", id="unit without a name"),
        pytest.param(changed("model", "units", 1, to="mlp"), "model.units.1", id="unit of no block"),
        pytest.param(changed("quality", to={"protocol": "x", "metrics": {"mse": -1e-9}}), "mse", id="negative error"),
        pytest.param(changed("cost", "layers", "full", to=0), "cost.layers.full", id="baseline costs nothing"),
        pytest.param(
            changed("cost", "with_attention", "cached", to=1201),
            "cost.with_attention",
            id="cached costs more than full",
        ),
        pytest.param(changed("cost", "flops", to={"full": 2, "cached": 1}), "cost.flops", id="unknown count"),
    ],
)
def test_refusal_names_the_field(edit: Callable[[Content], None], named: str) -> None:
    content = content_of(small_schedule())
    edit(content)
    assert named in refusal(sealed(content))


def test_reuse_at_step_0_is_refused_naming_the_unit() -> None:
    content = content_of(small_schedule())
    content["table"]["compute"][0][3] = 0
    assert "step 0 reuses unit 3" in refusal(sealed(content))


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("table", "compute", 1, 0), 1),
        (("provenance", "settings", "theta"), 0.4),
        (("sampler", "guidance", "scale"), 2.0),
        (("model", "name"), "other"),
        (("cost", "layers", "cached"), 100),
        (("sha256",), "0" * 64),
    ],
)
def test_change_after_writing_is_refused_naming_the_hash(path: tuple[str | int, ...], to: Any) -> None:
    content = content_of(small_schedule())
    changed(*path, to=to)(content)
    assert "sha256" in refusal(json.dumps(content))


@pytest.mark.parametrize("text", ["", "not json", "[]", "null", "{}", "\x80\x04", "{'format': 1}"])
def test_text_that_is_no_schedule_is_refused_naming_the_source(text: str) -> None:
    assert "some.json" in refusal(text)


def test_truncated_text_is_refused_wherever_it_ends() -> None:
    text = small_schedule().to_json().rstrip("\n")
    for end in range(0, len(text), 17):
        assert "is not JSON" in refusal(text[:end])


@pytest.mark.parametrize("nested", ["[" * 100_000, '{"a":' * 100_000])
def test_text_that_is_nested_too_deeply_is_refused(nested: str) -> None:
    assert "is not JSON" in refusal(nested)


@pytest.mark.parametrize(
    ("once", "twice", "named"),
    [
        ('"depth":2', '"depth":5,"depth":2', "depth"),
        ('"theta":0.5', '"theta":0.5,"theta":0.5', "theta"),
        ('"compute":', '"compute":[[1]],"compute":', "compute"),
        ('"depth":2', f'"depth":{"9" * 5000},"depth":2', "is not JSON"),
    ],
)
def test_key_that_is_there_twice_is_refused_naming_it(once: str, twice: str, named: str) -> None:
    text = small_schedule().to_json()
    assert text.count(once) == 1
    assert named in refusal(text.replace(once, twice))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["scale", "theta", "mse"])
def test_number_that_is_not_finite_is_refused_naming_the_field(field: str, value: str) -> None:
    text = small_schedule(quality=Quality(protocol="frontier/1", metrics={"mse": 0.25})).to_json()
    old = {"scale": "1.5", "theta": "0.5", "mse": "0.25"}[field]
    broken = text.replace(f'"{field}":{old}', f'"{field}":{value}')
    assert broken != text
    assert field in refusal(broken)


@pytest.mark.parametrize("mask", [((1, 1, 1, 0), *MASK[1:]), MASK[:2], ((1, 1), (0, 1), (1, 0)), (MASK[0], (2,) * 4)])
def test_no_schedule_is_made_of_a_mask_that_does_not_fit(mask: Mask) -> None:
    with pytest.raises(ScheduleError, match="compute"):
        small_schedule(table=Table.of(mask))


@pytest.mark.parametrize(
    "difference",
    [
        {"name": "other"},
        {"family": "uvit"},
        {"depth": 4, "units": ("a.mlp", "b.mlp", "c.mlp", "d.mlp")},
        {"units": ("a.attention", "a.mlp", "b.attention", "b.mlp")},
        {"weights_sha256": "c" * 64},
    ],
    ids=lambda difference: next(iter(difference)),
)
def test_another_model_is_refused_naming_what_differs(difference: dict[str, Any]) -> None:
    with pytest.raises(ScheduleError) as caught:
        small_schedule().require(model_identity(**difference), sampler_identity())
    assert caught.value.subject == f"model.{next(iter(difference))}"


@pytest.mark.parametrize(
    "difference",
    [
        {"name": "euler"},
        {"steps": 2, "timesteps": (999.0, 0.0)},
        {"timesteps": (999.0, 501.0, 0.0)},
        {"guidance": Guidance(scale=2.0)},
        {"guidance": Guidance(scale=1.5, rule="first-three")},
    ],
    ids=lambda difference: next(iter(difference)),
)
def test_another_sampler_is_refused_naming_what_differs(difference: dict[str, Any]) -> None:
    with pytest.raises(ScheduleError) as caught:
        small_schedule().require(model_identity(), sampler_identity(**difference))
    assert caught.value.subject == f"sampler.{next(iter(difference))}"


def test_the_model_and_sampler_it_was_made_for_are_accepted() -> None:
    schedule = small_schedule(model=model_identity(name="mine"), sampler=sampler_identity(guidance=Guidance(scale=4.0)))
    schedule.require(model_identity(name="mine"), sampler_identity(guidance=Guidance(scale=4.0)))
    with pytest.raises(ScheduleError, match=r"model\.name"):
        schedule.require(model_identity(), sampler_identity(guidance=Guidance(scale=4.0)))


def test_timesteps_that_another_cpu_rounds_in_its_own_way_are_the_same() -> None:
    times = sampler_identity().timesteps
    small_schedule().require(model_identity(), sampler_identity(timesteps=tuple(math.nextafter(t, 1e4) for t in times)))
    with pytest.raises(ScheduleError, match=r"sampler\.timesteps"):
        small_schedule().require(model_identity(), sampler_identity(timesteps=(times[0] + 1e-3, *times[1:])))


def test_timesteps_of_two_evaluations_may_be_equal() -> None:
    assert sampler_identity(order=2, timesteps=(999.0, 500.0, 500.0)).timesteps == (999.0, 500.0, 500.0)


def masks(steps: int = 3, units: int = 4) -> st.SearchStrategy[Mask]:
    row = st.tuples(*[st.integers(0, 1)] * units)
    return st.lists(row, min_size=steps - 1, max_size=steps - 1).map(lambda rows: ((1,) * units, *rows))


@given(mask=masks(), skipped=st.integers(0, 999), seed=st.integers(), lambda_=st.floats(0, 1e6))
def test_any_valid_schedule_survives_writing_and_reading(mask: Mask, skipped: int, seed: int, lambda_: float) -> None:
    provenance = small_schedule().provenance.model_copy(update={"settings": {"seed": seed, "lambda": lambda_}})
    schedule = small_schedule(table=Table.of(mask), provenance=provenance, cost=cost(1000 - skipped, full=1000))
    again = Schedule.from_json(schedule.to_json(), source="x")
    assert again == schedule
    assert again.to_json() == schedule.to_json()
    assert 0 < again.compute_share <= 1
