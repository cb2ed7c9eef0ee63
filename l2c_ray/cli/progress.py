"""Progress displays of long work: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from l2c_ray.cli.output import notes
from l2c_ray.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

    from l2c_ray.evaluation.frontier import ImageProgress

_LINES_OF_A_LOG = 20
_SECONDS_BETWEEN_LINES = 60.0


class ProgressDisplay:
    """Shows the progress of one piece of work after the other."""

    def __init__(self, console: Console, bar: Progress, clock: Callable[[], float]) -> None:
        self._console = console
        self._bar = bar
        self._clock = clock
        self.title = ""
        """Title of the work begun last; empty at the start."""

    def begin(self, plan: str, title: str, total: int, done: int = 0) -> None:
        """Prints the plan and begins to show the progress of new work.

        Args:
            total: size of the work.
            done: part of it that was done before, which is left out when the speed is measured.
        """
        self._console.print(plan, soft_wrap=True)
        self.title, self._total = title, total
        self._first = self._printed = done / total
        self._start = self._printed_at = self._clock()
        self._task = self._bar.add_task(printable(title), total=1.0, count="", left="", note="")
        self._bar.update(self._task, completed=self._first)

    def update(self, done: int, note: str = "", share: float | None = None) -> None:
        """Shows that `done` of the total is done, with a note.

        Args:
            share: finished share of the work, where the parts of the total take unequal times.
        """
        share = min(1.0, done / self._total if share is None else share)
        count, left = f"{done}/{self._total}", self._time_left(share)
        self._bar.update(self._task, completed=share, count=count, left=left, note=printable(note))
        if not self._console.is_terminal and self._is_worth_a_line(done, share):
            self._printed, self._printed_at = share, self._clock()
            how_far = ", ".join(filter(None, (f"{share:.0%}", left)))
            self._console.print(f"{self.title} {count} ({how_far}) {note}".rstrip(), soft_wrap=True)

    def on_images(self, progress: ImageProgress, title: str = "measuring") -> None:
        """Shows measurements, one after the other; an `OnImages`."""
        if not progress.done:
            images = f"{progress.candidates} candidates on {progress.images} images, {progress.total:,} images in all"
            self.begin(f"{title} {images}", title, progress.total)
        else:
            self.update(progress.done, progress.candidate, progress.share)

    def on_shards(self, doing: str, images: int | None = None) -> Callable[[int, int], None]:
        """A callback that shows shards, called with the finished and all of them at the start and after each."""

        def on_shard(done: int, total: int) -> None:
            if self.title == "shards":
                self.update(done)
                return
            of = f" of {images:,} images in all" if images else ""
            there = f", {done} of them are there" if done else ""
            self.begin(f"{doing} {total} shards{of}{there}", "shards", total, done)

        return on_shard

    def _is_worth_a_line(self, done: int, share: float) -> bool:
        return (
            done == self._total
            # Tolerates rounding.
            or share - self._printed > 1 / _LINES_OF_A_LOG - 1e-6
            or self._clock() - self._printed_at >= _SECONDS_BETWEEN_LINES
        )

    def _time_left(self, share: float) -> str:
        """The remaining time in words, at the speed so far; empty while that is unknown."""
        gained, elapsed = share - self._first, self._clock() - self._start
        if gained <= 0 or share >= 1:
            return ""
        return f"about {_in_words(elapsed * (1 - share) / gained)} left"


@contextmanager
def progress_display(
    console: Console = notes, clock: Callable[[], float] = time.monotonic
) -> Iterator[ProgressDisplay]:
    """Shows the progress of what is begun while the context lasts."""
    columns = (
        TextColumn("{task.description} {task.fields[count]}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield ProgressDisplay(console, bar, clock)


def _in_words(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{seconds / 3600:.1f} h"
