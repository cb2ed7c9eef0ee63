import json
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from PIL import Image
from unit_factories import L2C, Refused, sealed

from l2c_ray.caching.pipeline import Pipeline, encode_png
from l2c_ray.cli.main import main
from l2c_ray.config.learn import LearnConfig
from l2c_ray.models import zoo
from l2c_ray.schedule import Schedule

FEW_STEPS = ("--steps", "4")


@pytest.mark.parametrize(
    "command",
    ["", "learn", "generate", "compare", "schedule", "schedule show", "registry", "registry list"],
)
def test_help_of_every_command_works(l2c: L2C, command: str) -> None:
    finished = l2c(*command.split(), "--help")
    assert finished.code == 0
    assert "Usage:" in finished.out


def test_installed_command_is_this_one() -> None:
    (script,) = entry_points(group="console_scripts", name="l2c")
    assert script.load() is main


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate", "digits-dit", "--colour", "red"], "--colour"),
        (["generate", "digits-dit", "--label=-1", "--out", "x.png"], "--label"),
        (["generate", "digits-dit", "--label=1"], "--out"),
        (["nosuch"], "nosuch"),
    ],
)
def test_last_line_of_wrong_usage_names_what_is_wrong(l2c: L2C, arguments: list[str], named: str) -> None:
    finished = l2c(*arguments)
    assert finished.code == 2
    assert named in finished.err.splitlines()[-1]


def test_generate_writes_the_image_of_the_pipeline(l2c: L2C, tmp_path: Path, digits_pipeline: Pipeline) -> None:
    path = tmp_path / "new" / "image.png"
    finished = l2c("generate", "digits-dit", "--label", 3, "--seed", 7, "--out", path, *FEW_STEPS)
    assert (finished.code, finished.out.strip()) == (0, str(path))
    assert path.read_bytes() == encode_png(digits_pipeline.generate([3], [7])[0])
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (8, 8))


def test_same_seed_gives_the_same_bytes_and_another_seed_others(l2c: L2C, tmp_path: Path) -> None:
    def generate(seed: int) -> bytes:
        path = tmp_path / "image.png"
        assert l2c("generate", "digits-dit", "--label", 3, "--seed", seed, "--out", path, *FEW_STEPS).code == 0
        return path.read_bytes()

    assert generate(1) == generate(1)
    assert generate(1) != generate(2)


def test_generate_takes_a_schedule_from_a_file_or_by_its_alias(
    l2c: L2C, tmp_path: Path, half_file: Path, registered: Schedule, digits_pipeline: Pipeline
) -> None:
    wanted = encode_png(digits_pipeline.generate([3], [0], registered)[0])
    for given in (half_file, "champion"):
        path = tmp_path / "image.png"
        finished = l2c("generate", "digits-dit", "--label", 3, "--out", path, "--schedule", given, *FEW_STEPS)
        assert finished.code == 0
        assert path.read_bytes() == wanted
        path.unlink()


@pytest.mark.parametrize("name", ["none.json", "./none", "folder/v1.2", "folder/"])
def test_what_is_written_like_a_path_is_no_alias(refused: Refused, tmp_path: Path, name: str) -> None:
    line = refused("generate", "digits-dit", "--label", 3, "--out", tmp_path / "a.png", "--schedule", name)
    assert f"{Path(name)}: cannot be read" in line


@pytest.mark.parametrize("name", ["v1.2", "a" * 300, "", "folder"])
def test_what_is_neither_file_nor_path_is_an_alias(
    refused: Refused, registry_home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (registry_home / "folder").mkdir()
    monkeypatch.chdir(registry_home)
    line = refused("generate", "digits-dit", "--label", 3, "--out", "a.png", "--schedule", name)
    assert f"digits-dit-ddim-20@{name}: is not in the registry" in line


def test_schedule_whose_cost_is_not_the_model_s_is_refused(
    refused: Refused, tmp_path: Path, half_file: Path, half: Schedule
) -> None:
    content = json.loads(half.to_json())
    content["cost"]["layers"]["full"] *= 2
    half_file.write_text(sealed(content))
    options = ("--label", 3, "--out", tmp_path / "a.png", "--schedule", half_file, *FEW_STEPS)
    assert "cost.layers" in refused("generate", "digits-dit", *options)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "digits"}, "MODEL"),
        ({"--checkpoint": "a" * 300}, "aaa"),
        ({"--schedule": "a" * 300 + ".json"}, "aaa.json"),
        ({"--label": 10}, "label"),
        ({"--sampler": "euler"}, "sampler.name"),
        ({"--checkpoint": "none"}, "none"),
        ({"--schedule": "none.json"}, "none.json"),
        ({"--schedule": "half.json", "--steps": 5}, "sampler.steps"),
        ({"--schedule": "half.json", "--guidance-scale": 2}, "sampler.guidance"),
        ({"--out": "half.json/image.png"}, "half.json"),
        ({"--out": "."}, ".: is a folder"),
        ({"--vae": "none"}, "none: cannot be read"),
        ({"--out": "a" * 300 + ".png"}, "aaa.png"),
    ],
)
def test_generate_refuses_bad_input_in_one_line_naming_it(
    refused: Refused, half_file: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], named: str
) -> None:
    monkeypatch.chdir(half_file.parent)
    options: dict[str, Any] = {"model": "digits-dit", "--label": 3, "--out": "image.png", "--steps": 4} | changes
    model = options.pop("model")
    line = refused("generate", model, *(part for option in options.items() for part in option))
    assert named in line
    assert list(half_file.parent.iterdir()) == [half_file]


@pytest.mark.parametrize("name", ["digits-dit", "digits-uvit", "dit-s-8-256", "uvit-s-2-256"])
def test_zoo_knows_the_number_of_classes_before_a_model_is_made(name: str) -> None:
    assert zoo.num_classes_of(name, "MODEL", None) == zoo.skeleton(name).num_classes


def test_checkpoint_of_a_small_model_tells_its_number_of_classes_itself(tmp_path: Path) -> None:
    assert zoo.num_classes_of("digits-dit", "MODEL", tmp_path) is None
    assert zoo.num_classes_of("dit-s-8-256", "MODEL", tmp_path) == 1000


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--label", -1),
        ("--seed", -1),
        ("--seed", 10**30),
        ("--steps", 1),
        ("--steps", 1001),
        ("--guidance-scale", -1),
        ("--guidance-scale", "nan"),
        ("--guidance-scale", "inf"),
    ],
)
def test_generate_refuses_a_number_out_of_range_naming_the_option(
    l2c: L2C, tmp_path: Path, option: str, value: object
) -> None:
    path = tmp_path / "image.png"
    options = {"--label": 3, "--steps": 4, "--out": path} | {option: value}
    finished = l2c("generate", "digits-dit", *(part for item in options.items() for part in item))
    assert finished.code == 2
    assert option in finished.err
    assert not path.exists()


def test_unknown_alias_is_refused_in_one_line_naming_it(refused: Refused, tmp_path: Path, registry_home: Path) -> None:
    line = refused("generate", "digits-dit", "--label", 3, "--out", tmp_path / "a.png", "--schedule", "fast")
    assert "digits-dit-ddim-20@fast" in line


def test_unreachable_registry_is_a_failure_and_no_bad_input(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:s3cret@127.0.0.1:{unused_port}")
    line = refused("registry", "list", code=1)
    assert f"127.0.0.1:{unused_port}" in line
    assert "s3cret" not in line


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Mock]:
    """A config of `l2c learn`, and what stands in for the job itself."""
    path = tmp_path / "job.toml"
    path.write_text('[model]\nname = "digits-dit"\n[router]\nlambda = 1.0\n[training]\niterations = 1\n')
    learning = Mock()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "l2c_ray.cli.learning", learning)
    return path, learning.learn_and_report


def test_learn_hands_the_overridden_config_to_the_job(l2c: L2C, job: tuple[Path, Mock]) -> None:
    path, learn_and_report = job
    assert l2c("learn", path, "--set", "router.lambda=0.5", "--set", "cluster.workers=2", "--json").code == 0
    wanted = LearnConfig.read(path, ["router.lambda=0.5", "cluster.workers=2"])
    learn_and_report.assert_called_once_with(wanted, None, True)


@pytest.mark.parametrize("override", ["router.lamda=1", "router.lambda=-1", "cluster.workers=0"])
def test_learn_refuses_a_bad_config_before_anything_starts(
    refused: Refused, job: tuple[Path, Mock], override: str
) -> None:
    path, learn_and_report = job
    assert override.split("=")[0] in refused("learn", path, "--set", override)
    learn_and_report.assert_not_called()


def test_learn_refuses_a_missing_config_naming_it(refused: Refused, job: tuple[Path, Mock], tmp_path: Path) -> None:
    assert str(tmp_path / "none.toml") in refused("learn", tmp_path / "none.toml")
