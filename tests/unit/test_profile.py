import codecs
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from mutations import fuzzed, mutated
from unit_factories import L2C, Refused, learn_config, tiny_pipeline

from l2c_ray.caching.profiling import profile
from l2c_ray.config.learn import LearnConfig
from l2c_ray.config.profile import Profile
from l2c_ray.errors import ConfigError

UNITS = ["blocks.0.attention", "blocks.0.mlp", "blocks.1.attention", "blocks.1.mlp"]


def profile_file(folder: Path, **changes: Any) -> Path:
    content = {
        "format": "l2c-profile/1",
        "model": "tiny",
        "device": "cpu, 2 threads",
        "dtype": "float32",
        "batch_size": 8,
        "units": dict.fromkeys(UNITS, 0.001),
        "shared": 0.002,
    }
    path = folder / "profile.json"
    path.write_text(json.dumps({key: value for key, value in (content | changes).items() if value is not None}))
    return path


def time_config(folder: Path, **changes: Any) -> LearnConfig:
    return learn_config(router={"lambda": None, "time_budget": 0.5, "profile": str(profile_file(folder, **changes))})


def test_every_unit_of_an_evaluation_is_timed() -> None:
    model = tiny_pipeline().model
    done: list[int] = []
    measured = profile(model, batch_size=3, repeats=4, on_evaluation=done.append)
    assert done == [0, 1, 2, 3, 4]
    assert list(measured.units) == [unit.name for unit in model.units]
    assert (measured.model, measured.batch_size, measured.dtype) == (model.name, 3, "float32")
    assert measured.shared > 0


def test_more_images_take_a_unit_longer(digits_model: Any) -> None:
    few, many = (profile(digits_model, batch_size, 8, lambda done: None) for batch_size in (2, 64))
    assert sum(many.units.values()) > 3 * sum(few.units.values())


def test_file_is_read_when_the_config_is_and_travels_in_it(tmp_path: Path) -> None:
    config = time_config(tmp_path)
    assert config.router.profile
    assert config.router.profile.units == dict.fromkeys(UNITS, 0.001)
    Path(tmp_path, "profile.json").unlink()
    assert LearnConfig.parse(config.model_dump(by_alias=True), source="config") == config


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"shared": None}, "shared"),
        ({"format": "l2c-profile/2"}, "format"),
        ({"units": dict.fromkeys(UNITS, -1.0)}, "units"),
        ({"units": [1.0]}, "units"),
        ({"extra": 1}, "extra"),
    ],
)
def test_broken_file_is_refused_by_the_name_of_its_field(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"{named}.*profile.json"):
        time_config(tmp_path, **changes)


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    Path(tmp_path, "profile.json").write_text(text)
    with pytest.raises(ConfigError, match=r"profile\.json.*l2c profile"):
        learn_config(router={"lambda": None, "time_budget": 0.5, "profile": str(tmp_path / "profile.json")})


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"router\.profile.*cannot be read"):
        learn_config(router={"lambda": None, "time_budget": 0.5, "profile": str(tmp_path / "none.json")})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": "other"}, "was measured on other"),
        ({"units": {"blocks.0.attention": 1.0}}, "with 1 units"),
        ({"units": dict.fromkeys(UNITS, 0.0)}, "no unit that takes time"),
    ],
)
def test_profile_of_another_model_is_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    measured = Profile.from_json(profile_file(tmp_path, **changes).read_text(), "profile.json")
    with pytest.raises(ConfigError, match=problem):
        measured.require("tiny", UNITS)


def test_command_writes_a_profile_that_a_config_takes(l2c: L2C, tmp_path: Path) -> None:
    out = tmp_path / "new" / "profile.json"
    printed = l2c("profile", "digits-dit", "--out", out, "--repeats", 2, "--batch-size", 2).out
    assert "all mlp units" in printed
    measured = Profile.from_json(out.read_text(), "profile.json")
    assert measured.model == "digits-dit"
    assert learn_config(router={"lambda": None, "max_error": 1e-4, "profile": str(out)}).router.profile == measured


def test_command_refuses_an_unknown_model(refused: Refused, tmp_path: Path) -> None:
    assert "digits-nothing" in refused("profile", "digits-nothing", "--out", tmp_path / "profile.json")
    assert not list(tmp_path.iterdir())


WRITTEN = Profile(
    model="digits-dit",
    device="cpu",
    dtype="float32",
    batch_size=8,
    units={"blocks.0.mlp": 1e-3, "blocks.1.mlp": 2.0},
    shared=1e-2,
).to_json()


def read(content: bytes) -> Profile | str:
    """The profile, or why it is refused."""
    try:
        return Profile.from_json(content.decode(errors="replace"), source="profile.json")
    except ConfigError as error:
        return str(error)


@fuzzed
@given(content=mutated(WRITTEN.encode()))
def test_damaged_profile_is_read_or_refused_in_one_line(content: bytes) -> None:
    outcome = read(content)
    if isinstance(outcome, str):
        assert outcome.isprintable()
        assert len(outcome) < 2000
    else:
        assert read(outcome.to_json().encode()) == outcome


@pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "1e999", "NaN", "[" * 10_000])
def test_profile_with_a_number_that_is_none_is_refused(number: str) -> None:
    assert "profile.json" in str(read(WRITTEN.replace("2.0", number).encode()))


def test_byte_order_mark_before_a_profile_is_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(codecs.BOM_UTF8 + WRITTEN.encode())
    router = {"time_budget": 0.5, "profile": str(path)}
    values = {"model": {"name": "digits-dit"}, "router": router, "training": {"iterations": 1}}
    assert LearnConfig.parse(values, source="test").router.profile == read(WRITTEN.encode())
