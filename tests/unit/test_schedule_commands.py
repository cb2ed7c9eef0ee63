import json
from pathlib import Path

import pytest
import torch
from unit_factories import L2C, Refused

from l2c_ray.models import zoo
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.macs import count_macs
from l2c_ray.schedule import Guidance, Schedule

UNITS = 24
DIGITS = ("--model", "digits-dit", "--sampler", "ddim", "--steps", 4)


@pytest.fixture
def router(tmp_path: Path) -> Path:
    """For the digits DiT at four steps: scores of 0.27 at attention and 0.73 at MLP branches."""
    path = tmp_path / "router.pt"
    torch.save({"routers": {f"{row}.prob": torch.tensor([-1.0, 1.0]).repeat(UNITS // 2) for row in range(4)}}, path)
    return path


@pytest.fixture
def smoothcache(tmp_path: Path) -> Path:
    path = tmp_path / "smoothcache.json"
    path.write_text(json.dumps({"attn": [1, 0, 1, 0], "mlp": [1, 1, 1, 1]}))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "new" / "schedule.json"


def test_imported_schedule_is_for_any_weights_of_the_model(
    l2c: L2C, router: Path, out: Path, digits_model: CacheableTransformer
) -> None:
    finished = l2c("schedule", "import", router, *DIGITS, "--threshold", 0.5, "-o", out)
    assert (finished.code, finished.out.strip(), finished.err) == (0, str(out), "")
    schedule = Schedule.from_json(out.read_text(), source="test")
    assert schedule.model == digits_model.identity().model_copy(update={"weights_sha256": None})
    assert schedule.table.compute == ((1, 1) * 12, (0, 1) * 12) * 2
    assert schedule.table.cache_steps == (1, 3)
    assert schedule.cost == count_macs(digits_model).cost(schedule.table.compute)
    assert schedule.sampler.guidance == zoo.ENTRIES["digits-dit"].guidance
    assert schedule.provenance.policy == "imported"
    assert schedule.provenance.settings["theta"] == 0.5


def test_imported_schedule_makes_images(l2c: L2C, router: Path, out: Path, tmp_path: Path) -> None:
    assert l2c("schedule", "import", router, *DIGITS, "--threshold", 0.5, "-o", out).code == 0
    image = tmp_path / "image.png"
    finished = l2c("generate", "digits-dit", "--steps", 4, "--label", 3, "--schedule", out, "--out", image)
    assert finished.code == 0
    assert image.is_file()


def test_guidance_is_the_model_s_unless_given(l2c: L2C, router: Path, out: Path) -> None:
    options = ("--threshold", 0.5, "--guidance-scale", 2, "--guidance-rule", "beyond", "-o", out)
    assert l2c("schedule", "import", router, *DIGITS, *options).code == 0
    guidance = Schedule.from_json(out.read_text(), source="test").sampler.guidance
    assert guidance == Guidance(scale=2, rule="beyond")


def test_format_is_recognised_or_named(l2c: L2C, refused: Refused, smoothcache: Path, out: Path) -> None:
    assert l2c("schedule", "import", smoothcache, *DIGITS, "-o", out).code == 0
    recognised = out.read_text()
    assert l2c("schedule", "import", smoothcache, *DIGITS, "--format", "smoothcache", "-o", out).code == 0
    assert out.read_text() == recognised
    options = ("--format", "l2c-router", "--threshold", 0.5, "-o", out)
    assert str(smoothcache) in refused("schedule", "import", smoothcache, *DIGITS, *options)


@pytest.mark.parametrize(("threshold", "warned"), [(0.1, "removes nothing"), (0.9, "removes everything")])
def test_threshold_that_decides_nothing_is_warned_of(
    l2c: L2C, router: Path, out: Path, threshold: float, warned: str
) -> None:
    finished = l2c("schedule", "import", router, *DIGITS, "--threshold", threshold, "-o", out)
    assert finished.code == 0
    (line,) = finished.err.splitlines()
    assert line.startswith("warning: ")
    assert warned in line
    removed = json.loads(l2c("schedule", "show", out, "--json").out)["units"]["removed"]
    assert removed == (0 if threshold == 0.1 else 2 * UNITS)


def test_reuse_at_every_other_step_is_not_everything(l2c: L2C, smoothcache: Path, out: Path) -> None:
    finished = l2c("schedule", "import", smoothcache, *DIGITS, "-o", out)
    assert finished.code == 0
    assert "warning" not in finished.err


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"--model": "digits"}, "--model"),
        ({"--model": "dit-xl-2-256"}, "0.prob"),
        ({"--sampler": "euler"}, "sampler.name"),
        ({"--sampler": "dpm-solver-2"}, "router.pt"),
        ({"--steps": 5}, "4 rows for 5 steps"),
        ({"file": "none.pt"}, "none.pt"),
        ({"file": "smoothcache.json"}, "--threshold"),
        ({"-o": "router.pt/schedule.json"}, "router.pt"),
    ],
)
def test_import_refuses_bad_input_in_one_line_naming_it(
    refused: Refused,
    router: Path,
    smoothcache: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    named: str,
) -> None:
    monkeypatch.chdir(router.parent)
    before = {path: path.read_bytes() for path in router.parent.iterdir()}
    defaults = {"--model": "digits-dit", "--sampler": "ddim", "--steps": 4, "--threshold": 0.5, "-o": "schedule.json"}
    options = {"file": router.name, **defaults, **changes}
    file = options.pop("file")
    assert named in refused("schedule", "import", file, *(part for option in options.items() for part in option))
    assert {path: path.read_bytes() for path in router.parent.iterdir()} == before


@pytest.mark.parametrize("threshold", [2, -0.1, "nan", "inf"])
@pytest.mark.parametrize("file_format", ["l2c-router", "smoothcache"])
def test_threshold_that_is_no_score_is_refused_before_the_file_is_read(
    refused: Refused, out: Path, threshold: object, file_format: str
) -> None:
    options = ("--format", file_format, "--threshold", threshold, "-o", out)
    message = refused("schedule", "import", "none.pt", *DIGITS, *options)
    assert f"--threshold: {float(str(threshold))} is not in [0, 1]" in message


def test_router_without_a_threshold_is_refused(refused: Refused, router: Path, out: Path) -> None:
    assert "--threshold" in refused("schedule", "import", router, *DIGITS, "-o", out)
    assert not out.exists()


def test_export_says_on_stderr_what_is_lost(l2c: L2C, half_file: Path, tmp_path: Path) -> None:
    exported = tmp_path / "mask.json"
    finished = l2c("schedule", "export", half_file, "--to", "cache-dit", "-o", exported)
    assert (finished.code, finished.out.strip()) == (0, str(exported))
    assert json.loads(exported.read_text())["steps_computation_mask"] == [1, 0, 1, 0]
    (line,) = finished.err.splitlines()
    assert line.startswith("lost: ")


def test_export_goes_to_stdout_unless_a_file_is_named(l2c: L2C, half_file: Path) -> None:
    finished = l2c("schedule", "export", half_file, "--to", "smoothcache")
    assert finished.code == 0
    assert json.loads(finished.out)["mlp-11"] == [1, 0, 1, 0]
    assert finished.err.startswith("lost: ")


def test_what_is_exported_is_imported_again(l2c: L2C, half_file: Path, half: Schedule, tmp_path: Path) -> None:
    exported, imported = tmp_path / "exported.json", tmp_path / "imported.json"
    assert l2c("schedule", "export", half_file, "--to", "smoothcache", "-o", exported).code == 0
    assert l2c("schedule", "import", exported, *DIGITS, "-o", imported).code == 0
    schedule = Schedule.from_json(imported.read_text(), source="test")
    assert (schedule.table, schedule.cost) == (half.table, half.cost)


def test_file_that_is_no_schedule_cannot_be_exported(refused: Refused, smoothcache: Path) -> None:
    assert str(smoothcache) in refused("schedule", "export", smoothcache, "--to", "cache-dit")


def test_show_tells_units_and_cost_by_kind_and_count(l2c: L2C, router: Path, out: Path) -> None:
    l2c("schedule", "import", router, *DIGITS, "--threshold", 0.5, "-o", out)
    schedule = Schedule.from_json(out.read_text(), source="test")
    summary = json.loads(l2c("schedule", "show", out, "--json").out)
    assert summary["units"] == {
        "total": 96,
        "cache_steps": 48,
        "removed": 24,
        "removed_share_cache_steps": 0.5,
        "by_kind": {
            "attention": {"total": 48, "cache_steps": 24, "removed": 24},
            "mlp": {"total": 48, "cache_steps": 24, "removed": 0},
        },
    }
    for count, macs in (("layers", schedule.cost.layers), ("with_attention", schedule.cost.with_attention)):
        assert summary["tmacs"][count] == {"full": macs.full / 1e12, "cached": macs.cached / 1e12}
    assert summary["predicted_speedup"] == 1 / schedule.compute_share


def test_show_tells_a_person_the_removed_share_and_the_speedup(l2c: L2C, router: Path, out: Path) -> None:
    l2c("schedule", "import", router, *DIGITS, "--threshold", 0.5, "-o", out)
    schedule = Schedule.from_json(out.read_text(), source="test")
    shown = l2c("schedule", "show", out).out
    assert "24 of 48 (50.00%)" in shown
    assert f"{1 / schedule.compute_share:.2f}x" in shown
