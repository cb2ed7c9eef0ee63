import json
from pathlib import Path

import pytest
from unit_factories import L2C, Refused, model_identity, small_schedule

from l2c_ray.schedule import Provenance, Schedule


def test_show_tells_what_a_schedule_computes(l2c: L2C, half_file: Path, half: Schedule) -> None:
    finished = l2c("schedule", "show", half_file)
    assert finished.code == 0
    assert half.sha256 in finished.out
    assert str(half.compute_share) in finished.out
    assert "█" * 24 in finished.out
    assert "·" * 24 in finished.out


def test_show_as_json_is_json(l2c: L2C, half_file: Path, half: Schedule) -> None:
    finished = l2c("schedule", "show", half_file, "--json")
    summary = json.loads(finished.out)
    assert finished.code == 0
    assert summary["compute_share"] == half.compute_share
    of_a_kind = {"total": 48, "cache_steps": 24, "removed": 24}
    assert summary["units"] == {
        "total": 96,
        "cache_steps": 48,
        "removed": 48,
        "removed_share_cache_steps": 1.0,
        "by_kind": {"attention": of_a_kind, "mlp": of_a_kind},
    }
    assert summary["tmacs"]["layers"]["full"] == half.cost.layers.full / 1e12
    assert summary["quality"]["metrics"] == {"mse": 1e-3}
    assert summary["sha256"] == half.sha256


def test_show_takes_blocks_and_kinds_of_any_name(l2c: L2C, tmp_path: Path) -> None:
    path = tmp_path / "foreign.json"
    model = model_identity(units=("in.0.self", "in.0.cross", "out.0.self", "out.0.mix"))
    path.write_text(small_schedule(model=model).to_json())
    finished = l2c("schedule", "show", path, "--json")
    assert finished.code == 0
    # MASK reuses the first and third unit at step 1, and the second at step 2.
    by_kind = json.loads(finished.out)["units"]["by_kind"]
    assert {kind: units["removed"] for kind, units in by_kind.items()} == {"self": 2, "cross": 1, "mix": 0}


def test_show_prints_text_in_brackets_as_it_is(l2c: L2C, tmp_path: Path) -> None:
    path = tmp_path / "brackets.json"
    provenance = Provenance(policy="[bold]mine[/other]", settings={})
    path.write_text(small_schedule(provenance=provenance).to_json())
    finished = l2c("schedule", "show", path)
    assert finished.code == 0
    assert "[bold]mine[/other]" in finished.out


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"{}", b"null"], ids=["empty", "cut", "binary", "object", "null"]
)
def test_file_that_is_no_schedule_is_refused_in_one_line_naming_it(
    refused: Refused, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    assert str(path) in refused("schedule", "show", path)


def test_tampered_schedule_is_refused_in_one_line_naming_the_hash(refused: Refused, half_file: Path) -> None:
    half_file.write_text(half_file.read_text().replace('"number":2', '"number":3'))
    assert "sha256" in refused("schedule", "show", half_file)


def test_missing_schedule_is_refused_in_one_line_naming_it(refused: Refused, tmp_path: Path) -> None:
    assert str(tmp_path / "none.json") in refused("schedule", "show", tmp_path / "none.json")


def test_registry_list_as_json_is_json(l2c: L2C, registered: Schedule) -> None:
    finished = l2c("registry", "list", "--json")
    assert finished.code == 0
    (row,) = json.loads(finished.out)
    assert (row["name"], row["version"], row["aliases"]) == ("digits-dit-ddim-4", 1, ["champion"])
    assert (row["sha256"], row["compute_share"]) == (registered.sha256, registered.compute_share)


def test_registry_list_shows_every_version(l2c: L2C, registered: Schedule) -> None:
    finished = l2c("registry", "list")
    assert finished.code == 0
    assert "digits-dit-ddim-4" in finished.out
    assert registered.sha256[:12] in finished.out


@pytest.mark.usefixtures("registry_home")
def test_empty_registry_is_an_empty_list(l2c: L2C) -> None:
    assert json.loads(l2c("registry", "list", "--json").out) == []
