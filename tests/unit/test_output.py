"""Output of commands: untrusted text in tables and usage errors, JSON, and streams that cannot be written."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from unit_factories import L2C, Refused, sealed, small_schedule

from l2c_ray.cli.jobs import run_job
from l2c_ray.cli.json_output import print_json
from l2c_ray.cli.output import console, notes
from l2c_ray.cli.progress import progress_display

HOSTILE = "a\n\x1b[31mb\u202ec\r[red]d[/] :smile: \x9b"
SHOWN = r"a\n\x1b[31mb\u202ec\r[red]d[/] :smile: \x9b"


def test_table_shows_text_of_others_escaped_and_without_any_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=f"title {HOSTILE}")
    table.add_column(f"column {HOSTILE}")
    table.add_row(f"cell {HOSTILE}")
    console.print(table)
    shown = capsys.readouterr().out
    assert all(f"{kind} {SHOWN}" in shown for kind in ("title", "column", "cell"))
    assert shown.replace("\n", "").isprintable()


def test_long_text_of_others_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    console.print("k" * 100_000, soft_wrap=True)
    assert 1000 < len(capsys.readouterr().out) < 3000


def test_progress_and_notes_show_text_of_others_in_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display() as display:
        display.begin(f"plan {HOSTILE}", f"work {HOSTILE}", 1)
        display.update(1, f"note {HOSTILE}")
    notes.print(f"done {HOSTILE}", soft_wrap=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"plan {SHOWN}", f"work {SHOWN} 1/1 (100%) note {SHOWN}", f"done {SHOWN}"]


def test_schedule_with_control_characters_is_shown_in_as_many_lines_as_any(l2c: L2C, tmp_path: Path) -> None:
    def lines(policy: str) -> list[str]:
        content = json.loads(small_schedule().to_json())
        content["provenance"]["policy"] = policy
        path = tmp_path / "schedule.json"
        path.write_text(sealed(content))
        finished = l2c("schedule", "show", path)
        assert finished.code == 0
        return finished.out.splitlines()

    assert len(lines(HOSTILE)) == len(lines("harmless"))
    assert any(SHOWN in line for line in lines(HOSTILE))


@pytest.mark.parametrize(
    "arguments",
    [
        (HOSTILE,),
        ("schedule", HOSTILE),
        ("schedule", "show", f"--{HOSTILE}"),
        ("schedule", "show", "a", HOSTILE),
        ("schedule", "export", "a", "--to", HOSTILE),
        ("generate", "digits-dit", "--out", "a", "--label", HOSTILE),
        ("schedule", "show", f"{HOSTILE}.json"),
        ("schedule", "show", "k" * 100_000),
    ],
)
def test_argument_with_control_characters_is_repeated_in_one_bounded_line(
    refused: Refused, arguments: tuple[str, ...]
) -> None:
    line = refused(*arguments)
    assert line.isprintable()
    assert len(line) < 2000


def test_wrong_usage_of_a_job_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs/learn.py", "--config", "a.toml", HOSTILE])
    with pytest.raises(SystemExit) as caught:
        run_job(["learn"], None, "digits.toml")
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: learn.py: unrecognized arguments")
    assert line.isprintable()


def test_numbers_that_are_not_finite_are_null_in_json_and_named_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    content = {"rows": [{"mse": 0.0, "psnr": math.inf}, {"psnr": -math.inf}], "pair": (1, math.nan), "whole": 7}
    print_json(content)
    captured = capsys.readouterr()

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    assert json.loads(captured.out, parse_constant=refuse) == {
        "rows": [{"mse": 0.0, "psnr": None}, {"psnr": None}],
        "pair": [1, None],
        "whole": 7,
    }
    places = [line.split()[1:4] for line in captured.err.splitlines()]
    assert places == [["rows.0.psnr", "is", "inf,"], ["rows.1.psnr", "is", "-inf,"], ["pair.1", "is", "nan,"]]


def test_json_keeps_text_of_others_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({HOSTILE: "k" * 100_000})
    assert json.loads(capsys.readouterr().out) == {HOSTILE: "k" * 100_000}


@pytest.fixture
def schedule_file(tmp_path: Path) -> Path:
    path = tmp_path / "schedule.json"
    path.write_text(small_schedule().to_json())
    return path


@pytest.mark.parametrize(
    ("command", "code", "error"),
    [
        ("--help >/dev/full", 1, "error: standard output: cannot be written (No space left on device)"),
        ("--help >&-", 1, "error: standard output: cannot be written (Bad file descriptor)"),
        ("schedule show {file} --json >/dev/full", 1, "error: standard output: cannot be written (No space"),
        ("--help 2>&- >/dev/null", 0, None),
        ("nosuch 2>&-", 2, None),
        ("nosuch 2>/dev/full", 2, None),
    ],
)
def test_stream_that_cannot_be_written_is_told_in_one_line(
    schedule_file: Path, command: str, code: int, error: str | None
) -> None:
    finished = in_a_shell(command.format(file=schedule_file))
    assert finished.returncode == code
    lines = finished.stderr.splitlines()
    assert len(lines) == (error is not None)
    assert lines == [] or lines[0].startswith(error or "")


def test_reader_that_has_enough_is_no_error() -> None:
    finished = in_a_shell("--help | true; exit ${PIPESTATUS[0]}")
    assert finished.stderr == ""
    assert finished.returncode in (0, 1)


def in_a_shell(command: str) -> "subprocess.CompletedProcess[str]":
    program = Path(sys.executable).parent / "l2c"
    return subprocess.run(
        ["/bin/bash", "-c", f"{program} {command}"], capture_output=True, text=True, check=False, timeout=100
    )
