"""Progress displays: the plan, the share done, and the time left."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from unit_factories import L2C

from l2c_ray.cli.progress import ProgressDisplay, progress_display
from l2c_ray.evaluation.frontier import Candidate, ImageProgress, Meter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Log:
    """The output of a job."""

    def __init__(self, *, terminal: bool = False) -> None:
        self.clock = Clock()
        self._text = io.StringIO()
        self.console = Console(file=self._text, force_terminal=terminal, width=200, highlight=False)

    def shown(self) -> str:
        return self._text.getvalue()

    def lines(self) -> list[str]:
        return self.shown().splitlines()

    def update(
        self, display: ProgressDisplay, at: float, done: int, note: str = "", share: float | None = None
    ) -> None:
        self.clock.now = at
        display.update(done, note, share)


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_log_tells_the_plan_the_share_and_the_time_left(log: Log) -> None:
    with progress_display(log.console, log.clock) as display:
        display.begin("learning in 40 iterations", "learning", 40)
        log.update(display, 60, 10, "error 1e-3")
        log.update(display, 240, 40, "error 1e-4")
    assert log.lines() == [
        "learning in 40 iterations",
        "learning 10/40 (25%, about 3 min left) error 1e-3",
        "learning 40/40 (100%) error 1e-4",
    ]


def test_work_of_earlier_sessions_does_not_speed_up_what_is_left(log: Log) -> None:
    with progress_display(log.console, log.clock) as display:
        display.begin("learning", "learning", 100, done=50)
        log.update(display, 30, 60)
    assert log.lines()[-1] == "learning 60/100 (60%, about 2 min left)"


def test_time_left_weighs_the_parts_by_what_they_cost(log: Log) -> None:
    with progress_display(log.console, log.clock) as display:
        display.begin("comparing", "comparing", 100)
        log.update(display, 30, 50, share=0.75)
    assert log.lines()[-1] == "comparing 50/100 (75%, about 10 s left)"


def test_a_log_has_about_twenty_lines_however_long_the_work_is(log: Log) -> None:
    with progress_display(log.console, log.clock) as display:
        display.begin("plan", "images", 24_064)
        for done in range(1, 24_065):
            log.update(display, done / 1000, done)
    assert len(log.lines()) == 21
    assert log.lines()[-1].startswith("images 24064/24064 (100%)")


def test_slow_work_is_heard_of_once_a_minute(log: Log) -> None:
    with progress_display(log.console, log.clock) as display:
        display.begin("plan", "pretraining", 10_000)
        for second in range(180):
            log.update(display, second, second + 1)
    assert [line.split()[1] for line in log.lines()[1:]] == ["61/10000", "121/10000"]


@pytest.mark.parametrize(
    ("elapsed", "words"), [(1.0, "about 3 s left"), (100.0, "about 5 min left"), (7200.0, "about 6.0 h left")]
)
def test_time_left_is_told_in_a_unit_that_reads_well(log: Log, elapsed: float, words: str) -> None:
    with progress_display(log.console, log.clock) as display:
        display.begin("plan", "shards", 4)
        log.update(display, elapsed, 1)
    assert words in log.lines()[-1]


def test_a_terminal_shows_share_and_time_left_in_one_place() -> None:
    log = Log(terminal=True)
    with progress_display(log.console, log.clock) as display:
        display.begin("learning in 4 iterations", "learning", 4)
        log.update(display, 30, 1, "[bold] error")
        display.begin("measuring", "measuring", 2)
    for words in ("learning in 4 iterations", "learning 1/4", "25%", "about 90 s left", "[bold] error"):
        assert words in log.shown()


def test_measurements_tell_what_they_will_measure_one_after_the_other(log: Log) -> None:
    cheap, full = Candidate("cheap", "x", 10, None, 0.5), Candidate("full", "full", 20, None, 1.0)
    with progress_display(log.console, log.clock) as display:
        for _ in range(2):
            meter = Meter([full, cheap], 512, display.on_images)
            log.clock.now += 10
            meter.add(full, 512)
            meter.add(cheap, 512)
    plan = "measuring 2 candidates on 512 images, 1,024 images in all"
    half, whole = "measuring 512/1024 (67%, about 5 s left) full", "measuring 1024/1024 (100%) cheap"
    assert log.lines() == [plan, half, whole, plan, half, whole]


def test_share_of_a_measurement_goes_by_compute_and_ends_at_one() -> None:
    told: list[ImageProgress] = []
    candidates = [Candidate(str(number), "x", 20, None, share) for number, share in enumerate((1.0, 0.25, 0.35))]
    meter = Meter(candidates, 10, told.append)
    for candidate in candidates:
        meter.add(candidate, 10)
    assert [made.share for made in told] == pytest.approx([0, 0.625, 0.78125, 1])


@pytest.mark.parametrize("there", [0, 20])
def test_shards_tell_how_many_are_there_already(log: Log, there: int) -> None:
    with progress_display(log.console, log.clock) as display:
        on_shard = display.on_shards("making", 50_000)
        on_shard(there, 100)
        log.clock.now = 60
        on_shard(there + 10, 100)
    plan = "making 100 shards of 50,000 images in all"
    assert log.lines()[0] == (f"{plan}, 20 of them are there" if there else plan)
    assert log.lines()[1] == (
        "shards 30/100 (30%, about 7 min left)" if there else "shards 10/100 (10%, about 9 min left)"
    )


def test_comparison_says_what_it_will_measure_and_how_long_it_takes(l2c: L2C) -> None:
    policies = ("--policies", "fixed-interval:interval=2", "--policies", "calibrated:alpha=0.1,images=4")
    done = l2c("compare", "digits-dit", "--steps", "4", "--images", "8", *policies)
    assert done.code == 0
    lines = done.err.splitlines()
    assert lines[0] == "calibrating rules on the baseline's 4 images"
    (plan,) = [line for line in lines if line.startswith("comparing ") and "candidates" in line]
    candidates, images, total = map(int, re.findall(r"\d+", plan))
    assert images == 8
    assert candidates * images == total
    assert any(re.fullmatch(rf"comparing \d+/{total} \(\d+%, about \d+ s left\) .+", line) for line in lines)
    assert lines[-1].startswith(f"comparing {total}/{total} (100%)")


@pytest.mark.parametrize("command", ["bench", "profile"])
def test_timing_says_what_it_will_time(command: str, l2c: L2C, half_file: Path, tmp_path: Path) -> None:
    of = ("--schedule", half_file) if command == "bench" else ("--out", tmp_path / "profile.json")
    done = l2c(command, "digits-dit", *of, "--batch-size", 1, "--repeats", 2)
    assert done.code == 0
    plan, *progress = done.err.splitlines()
    assert plan.startswith("timing ")
    assert "2 " in plan
    assert "(100%)" in progress[-1]
