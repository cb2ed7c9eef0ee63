import json
from pathlib import Path

import pytest
from unit_factories import GUIDANCE, L2C, Refused, measured_schedule

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.evaluation import shipped
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Schedule

FEW_STEPS = ("--steps", "4")
QUICK = ("--policies", "fixed-interval:interval=2", "--images", "4", *FEW_STEPS)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _nothing_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "shipped")


@pytest.fixture
def folder(half: Schedule, digits_pipeline: Pipeline, tmp_path: Path) -> Path:
    """A folder of two schedules and another file."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "half.json").write_text(half.to_json())
    (folder / "less.json").write_text(measured_schedule(digits_pipeline, fixed_interval(4, 24, 3)).to_json())
    (folder / "notes.txt").write_text("mine")
    return folder


def test_folder_without_schedules_is_no_alias(refused: Refused, tmp_path: Path) -> None:
    assert f"{tmp_path}: holds no schedules" in refused("compare", "digits-dit", "--schedules", tmp_path, *QUICK)


def test_another_first_seed_makes_other_images(l2c: L2C) -> None:
    few = ("compare", "digits-dit", "--json", *QUICK[:2], *FEW_STEPS, "--images", "2")
    given, same, other = (json.loads(l2c(*few, "--first-seed", seed).out) for seed in (10000, 10000, 10002))
    assert (given["first_seed"], other["first_seed"]) == (10000, 10002)
    of_rule = [report["rows"][-1]["mse"] for report in (given, same, other)]
    assert of_rule[0] == of_rule[1] != of_rule[2]


def test_compare_as_json_tells_the_protocol_and_every_row(l2c: L2C) -> None:
    finished = l2c("compare", "digits-dit", "--json", *QUICK)
    assert finished.code == 0
    report = json.loads(finished.out)
    rows = report.pop("rows")
    assert report == {
        "protocol": "frontier/1",
        "images": 4,
        "first_seed": 10000,
        "model": "digits-dit",
        "sampler": {"name": "ddim", "steps": 4},
        "guidance": {"scale": 1.5, "rule": "standard"},
    }
    assert [(row["curve"], row["name"]) for row in rows] == [
        ("baseline", "baseline"),
        ("fewer steps", "ddim, 3 steps"),
        ("fewer steps", "ddim, 2 steps"),
        ("fewer steps", "ddim, 1 steps"),
        ("fixed-interval", "fixed-interval:interval=2"),
    ]
    assert (rows[0]["mse"], rows[0]["psnr"], rows[0]["ssim"], rows[0]["compute_share"]) == (0, None, 1, 1)
    assert (rows[0]["frechet_to_full"], rows[0]["kernel_to_full"]) == (0, 0)
    for row in rows[1:]:
        assert row["mse"] > 0
        assert row["ssim"] < 1
        assert row["seconds"] > 0
        assert row["frechet_to_real"] > 0
    assert 0.5 < rows[-1]["compute_share"] < 0.6


def test_compare_writes_all_there_is_to_see(l2c: L2C, half_file: Path, half: Schedule, tmp_path: Path) -> None:
    out = tmp_path / "compared"
    finished = l2c("compare", "digits-dit", "--schedules", half_file, "--out", out, *QUICK)
    assert finished.code == 0
    assert "fixed-interval:interval=2" in finished.out
    rows = json.loads((out / "frontier.json").read_text())["rows"]
    assert rows[1]["name"] == str(half_file)
    # They are the same table.
    assert rows[1]["mse"] == rows[-1]["mse"]
    for plot in ("frontier.png", "frontier-time.png"):
        assert (out / plot).read_bytes().startswith(PNG)
    schedule, heatmap = sorted((out / "schedules").iterdir())
    assert Schedule.from_json(schedule.read_text(), "") == half
    assert heatmap.name == schedule.with_suffix(".png").name
    assert heatmap.read_bytes().startswith(PNG)


def test_folder_stands_for_every_schedule_in_it(l2c: L2C, folder: Path) -> None:
    finished = l2c("compare", "digits-dit", "--schedules", folder, "--json", *QUICK)
    assert finished.code == 0
    names = [row["name"] for row in json.loads(finished.out)["rows"]]
    assert names[1:3] == [str(folder / "half.json"), str(folder / "less.json")]


@pytest.mark.parametrize("name", ["half.json", "v1.2", "half"])
def test_name_of_a_file_is_that_file(
    l2c: L2C, half_file: Path, half: Schedule, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(half_file.parent)
    half_file.rename(name)
    finished = l2c("compare", "digits-dit", "--schedules", name, "--json", *QUICK)
    assert finished.code == 0
    assert [row["compute_share"] for row in json.loads(finished.out)["rows"] if row["name"] == name] == [
        half.compute_share
    ]


def test_folder_named_like_an_alias_does_not_hide_it(
    l2c: L2C, tmp_path: Path, registered: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "champion").mkdir()
    monkeypatch.chdir(tmp_path)
    finished = l2c("compare", "digits-dit", "--schedules", "champion", "--json", *QUICK)
    assert finished.code == 0
    assert registered.compute_share in [row["compute_share"] for row in json.loads(finished.out)["rows"]]


def test_dynamic_rules_cost_what_they_computed(l2c: L2C) -> None:
    rules = ("--policies", "first-block:threshold=0.0", "--policies", "first-block:threshold=100.0")
    finished = l2c("compare", "digits-dit", "--images", 4, "--json", *rules, *FEW_STEPS)
    *_, never, always = json.loads(finished.out)["rows"]
    assert (never["compute_share"], never["mse"]) == (1, 0)
    assert always["compute_share"] < 0.5
    assert always["mse"] > 0


def test_schedules_of_the_package_are_compared_unless_others_are_given(
    l2c: L2C, half: Schedule, half_file: Path, tmp_path: Path
) -> None:
    shipping = tmp_path / "shipped" / "digits-dit-ddim-4"
    shipping.mkdir(parents=True)
    (shipping / "fast.json").write_text(half.to_json())
    for given, name in [((), "fast"), (("--schedules", half_file), str(half_file))]:
        rows = json.loads(l2c("compare", "digits-dit", "--json", *given, *QUICK).out)["rows"]
        assert [row["name"] for row in rows if row["curve"] == "test"] == [name]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--policies", "none"), "none"),
        (("--policies", "fixed-interval", "--policies", "taylor:interval=3"), "taylor.order"),
        (("--policies", "fixed-interval:interval=zero"), "fixed-interval.interval"),
        (("--schedules", "none.json"), "none.json"),
        (("--schedules", "a" * 300 + ".json"), "aaa.json"),
        (("--schedules", "./"), "holds no schedules"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named in refused("compare", "digits-dit", *options, "--out", tmp_path / "out", *FEW_STEPS)
    assert not (tmp_path / "out").exists()


def test_schedule_of_another_sampler_is_refused_naming_the_sampler(
    refused: Refused, digits_model: CacheableTransformer, tmp_path: Path
) -> None:
    other = Pipeline(digits_model, make_solver("dpm-solver-2", 4, digits_model), GUIDANCE)
    path = tmp_path / "other.json"
    path.write_text(measured_schedule(other, fixed_interval(4, 24, 2)).to_json())
    assert "sampler.name" in refused("compare", "digits-dit", "--schedules", path, *FEW_STEPS)


def test_place_that_cannot_be_written_is_refused_before_anything_is_made(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "file" in refused("compare", "digits-dit", "--out", tmp_path / "file", *QUICK)
