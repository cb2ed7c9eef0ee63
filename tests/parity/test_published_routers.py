"""The paper's numbers from its authors' published routers, by way of the commands that a user runs."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from l2c_ray.cli.main import main

SHARED = Path(__file__).resolve().parents[3] / "shared"
ROUTERS = Path(os.environ.get("L2C_ROUTERS_DIR") or SHARED / "routers")
SMOOTHCACHE = ROUTERS.parent / "schedules" / "smoothcache_50-N-2-l2c.json"


@dataclass(frozen=True)
class Published:
    """A router with what the paper reports of it: multiply-accumulates in units of 1e12."""

    file: str
    model: str
    sampler: str
    steps: int
    threshold: float
    removed: int
    cache_steps: int
    full: float
    cached: float


DDIM_50 = Published("dit_xl2_256_ddim50.pt", "dit-xl-2-256", "ddim", 50, 0.1, 664, 1400, 5.72, 4.36)
DDIM_20 = Published("dit_xl2_256_ddim20.pt", "dit-xl-2-256", "ddim", 20, 0.1, 248, 560, 2.29, 1.78)
DPM_50 = Published("uvit_h2_256_dpm50.pth", "uvit-h-2-256", "dpm-solver-2", 50, 0.9, 1304, 1392, 6.44, 3.79)
DPM_20 = Published("uvit_h2_256_dpm20.pth", "uvit-h-2-256", "dpm-solver-2", 20, 0.9, 333, 522, 2.58, 1.92)
ALL = pytest.mark.parametrize("published", [DDIM_50, DDIM_20, DPM_50, DPM_20], ids=lambda published: published.file)


def l2c(*arguments: object) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code in (None, 0)


def imported(published: Published, folder: Path) -> Path:
    """The schedule of the router, in a file."""
    router, schedule = ROUTERS / published.file, folder / f"{published.file}.json"
    if not router.is_file():
        pytest.skip(f"{router} is not there; L2C_ROUTERS_DIR names the folder of the published routers")
    sampling = ("--model", published.model, "--sampler", published.sampler, "--steps", published.steps)
    l2c("schedule", "import", router, *sampling, "--threshold", published.threshold, "-o", schedule)
    return schedule


def shown(published: Published, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    schedule = imported(published, folder)
    capsys.readouterr()
    l2c("schedule", "show", schedule, "--json")
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return summary


@ALL
def test_as_many_units_are_removed_as_the_paper_says(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = shown(published, tmp_path, capsys)
    units = summary["units"]
    assert (units["removed"], units["cache_steps"]) == (published.removed, published.cache_steps)
    assert units["removed_share_cache_steps"] == published.removed / published.cache_steps
    assert sum(kind["removed"] for kind in units["by_kind"].values()) == published.removed
    assert sum(kind["total"] for kind in units["by_kind"].values()) == units["total"]


@pytest.mark.parametrize("published", [DDIM_50, DDIM_20], ids=lambda published: published.file)
def test_macs_of_dit_are_the_paper_s_to_three_digits(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = shown(published, tmp_path, capsys)["tmacs"]["layers"]
    assert (round(layers["full"], 2), round(layers["cached"], 2)) == (published.full, published.cached)


# The paper's 1.92 for 20 evaluations does not follow from its own 333 removed units: a baseline costs 0.1287 T an
# evaluation in both rows, so both rows together would ask for an attention branch that costs more than twice an MLP
# branch, which has twice its layers. Counted as the other rows are, those units leave 1.88.
@pytest.mark.parametrize(("published", "tolerance"), [(DPM_50, 0.01), (DPM_20, 0.022)], ids=[DPM_50.file, DPM_20.file])
def test_macs_of_uvit_are_near_the_paper_s(
    published: Published, tolerance: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = shown(published, tmp_path, capsys)["tmacs"]["layers"]
    assert layers["full"] == pytest.approx(published.full, rel=0.01)
    assert layers["cached"] == pytest.approx(published.cached, rel=tolerance)


@ALL
def test_predicted_speedup_is_that_of_all_macs(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = shown(published, tmp_path, capsys)
    macs = summary["tmacs"]["with_attention"]
    assert summary["predicted_speedup"] == pytest.approx(macs["full"] / macs["cached"])
    assert macs["full"] > summary["tmacs"]["layers"]["full"]


def test_exported_router_is_the_schedule_that_smoothcache_made_of_it(tmp_path: Path) -> None:
    if not SMOOTHCACHE.is_file():
        pytest.skip(f"{SMOOTHCACHE} is not there")
    exported = tmp_path / "exported.json"
    l2c("schedule", "export", imported(DDIM_50, tmp_path), "--to", "smoothcache", "-o", exported)
    assert json.loads(exported.read_text()) == json.loads(SMOOTHCACHE.read_text())
    assert exported.read_bytes() == SMOOTHCACHE.read_bytes()


def test_both_ways_of_importing_the_router_give_one_table(tmp_path: Path) -> None:
    if not SMOOTHCACHE.is_file():
        pytest.skip(f"{SMOOTHCACHE} is not there")
    from_router, from_smoothcache = imported(DDIM_50, tmp_path), tmp_path / "from_smoothcache.json"
    sampling = ("--model", DDIM_50.model, "--sampler", DDIM_50.sampler, "--steps", DDIM_50.steps)
    l2c("schedule", "import", SMOOTHCACHE, *sampling, "-o", from_smoothcache)
    one, other = json.loads(from_router.read_text()), json.loads(from_smoothcache.read_text())
    assert one["table"]["compute"] == other["table"]["compute"]
    assert one["cost"] == other["cost"]


def test_calibrated_schedule_decides_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibrated = SMOOTHCACHE.with_name("smoothcache_50-N-3-threshold-0.18.json")
    if not calibrated.is_file():
        pytest.skip(f"{calibrated} is not there")
    schedule = tmp_path / "calibrated.json"
    sampling = ("--model", "dit-xl-2-256", "--sampler", "ddim", "--steps", 50)
    l2c("schedule", "import", calibrated, *sampling, "-o", schedule)
    by_kind = {kind: column.count(0) * 28 for kind, column in json.loads(calibrated.read_text()).items()}
    capsys.readouterr()
    l2c("schedule", "show", schedule, "--json")
    units = json.loads(capsys.readouterr().out)["units"]
    removed = {kind: of_kind["removed"] for kind, of_kind in units["by_kind"].items()}
    assert removed == {"attention": by_kind["attn"], "mlp": by_kind["mlp"]}
    assert units["removed_share_cache_steps"] == 1
