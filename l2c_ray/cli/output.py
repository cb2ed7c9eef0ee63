"""Tables and lines for people."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from l2c_ray.printable import printable

if TYPE_CHECKING:
    from l2c_ray.evaluation.frontier import Measurement
    from l2c_ray.registry.audit import AliasMove
    from l2c_ray.registry.versions import RegisteredVersion
    from l2c_ray.schedule import Macs, Schedule
    from l2c_ray.schedule import Table as ScheduleTable

_LONGEST = 2000
"""Longest text in characters, for instance of a list of units."""


class _PlainConsole(Console):
    """A console that prints strings, also untrusted ones, without markup and each as one line of bounded length.

    Text with several lines or a style is given as a rich `Text`.
    """

    def __init__(self, is_terminal: bool, stderr: bool = False) -> None:
        # A log has no width of its own.
        super().__init__(width=None if is_terminal else 120, highlight=False, markup=False, emoji=False, stderr=stderr)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, _LONGEST), **options)


# Results go to stdout and progress to stderr, so that a script can read the results. Closed streams are None.
console = _PlainConsole(bool(sys.stdout and sys.stdout.isatty()))
notes = _PlainConsole(bool(sys.stderr and sys.stderr.isatty()), stderr=True)


def frontier_table(measurements: Iterable[Measurement]) -> Table:
    """A table with one row per candidate in the order given, and a line between curves."""
    title = (
        "frontier protocol: error to the baseline, Fréchet and kernel distance (FD, KD), at each share of its compute; "
        "removed: of the cache steps' units"
    )
    rows = list(measurements)
    table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True)
    table.add_column("", overflow="fold")
    for heading in ("share", "speed-up", "removed", "MSE", "PSNR", "SSIM", "FD", "FD to real", "KD"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row, after in zip_longest(rows, rows[1:]):
        table.add_row(
            row.name,
            f"{row.compute_share:.3f}",
            f"{row.speedup:.2f}x",
            _or_dash(row.removed_share, ".1%"),
            f"{row.mse:.2e}",
            _or_dash(row.psnr, ".1f"),
            f"{row.ssim:.4f}",
            _or_dash(row.frechet_to_full, ".3f"),
            _or_dash(row.frechet_to_real, ".2f"),
            _or_dash(row.kernel_to_full, ".3g"),
            end_section=after is not None and after.curve != row.curve,
        )
    return table


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def versions_table(versions: list[RegisteredVersion]) -> Table:
    table = Table()
    for heading in ("name", "version", "aliases", "compute share", "error (MSE)", "sha256", "git commit"):
        table.add_column(heading)
    for version in versions:
        table.add_row(
            version.name,
            str(version.version),
            ", ".join(version.aliases),
            f"{version.compute_share:.3f}",
            f"{version.mse:.2e}",
            version.sha256[:12],
            version.git_commit[:12] + ("-dirty" if version.git_commit.endswith("-dirty") else ""),
        )
    return table


def checks_table(checks: Iterable[Mapping[str, Any]]) -> Table:
    """A table of a gate's checks, each as `Check.as_dict` gives it."""
    table = Table()
    for heading in ("check", "", "found"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        table.add_row(check["name"], "passed" if check["passed"] else "FAILED", check["finding"])
    return table


def print_registered(version: RegisteredVersion) -> None:
    """Reports a registered version."""
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    console.print(f"registered as {version.name} version {version.version}{aliases}", soft_wrap=True)
    console.print(f"sha256 {version.sha256}", soft_wrap=True)


def move_in_words(move: AliasMove) -> str:
    before, after = ("no version" if place is None else f"version {place}" for place in (move.before, move.after))
    return f"{move.when} {move.who} moved {move.alias} from {before} to {after}: {move.why}"


def warn_of_extremes(table: ScheduleTable, may_reuse: Iterable[int]) -> None:
    """Warns if a table computes everything, or nothing at the steps that may reuse."""
    if all(all(row) for row in table.compute):
        notes.print("warning: the schedule removes nothing: every unit is computed at every step", soft_wrap=True)
    elif not any(any(table.compute[step]) for step in may_reuse):
        notes.print("warning: the schedule removes everything: no unit is computed at any cache step", soft_wrap=True)


def schedule_summary(schedule: Schedule) -> dict[str, Any]:
    """Units computed and removed, in total and by kind, and the cost; plain values for JSON."""
    cost = schedule.cost
    return {
        "model": schedule.model.name,
        "sampler": schedule.sampler.name,
        "steps": schedule.sampler.steps,
        "guidance": str(schedule.sampler.guidance),
        "policy": schedule.provenance.policy,
        "settings": schedule.provenance.settings,
        "git_commit": schedule.provenance.git_commit,
        "units": _units_summary(schedule),
        "tmacs": {"layers": _tmacs(cost.layers), "with_attention": _tmacs(cost.with_attention)},
        "compute_share": schedule.compute_share,
        "predicted_speedup": 1 / schedule.compute_share,
        "quality": schedule.quality.model_dump() if schedule.quality else None,
        "sha256": schedule.sha256,
    }


def _units_summary(schedule: Schedule) -> dict[str, Any]:
    table = schedule.table
    kinds = [name.rpartition(".")[2] for name in schedule.model.units]
    removed = Counter(kind for row in table.compute for kind, bit in zip(kinds, row, strict=True) if not bit)
    return {
        "total": schedule.sampler.steps * len(kinds),
        "cache_steps": len(table.cache_steps) * len(kinds),
        "removed": removed.total(),
        "removed_share_cache_steps": table.removed_share,
        "by_kind": {
            kind: {
                "total": schedule.sampler.steps * kinds.count(kind),
                "cache_steps": len(table.cache_steps) * kinds.count(kind),
                "removed": removed[kind],
            }
            for kind in dict.fromkeys(kinds)
        },
    }


def _tmacs(macs: Macs) -> dict[str, float]:
    return {"full": macs.full / 1e12, "cached": macs.cached / 1e12}


def schedule_table(schedule: Schedule) -> Table:
    """The same for a person, with the mask drawn: a block where a unit is computed, a dot where it is reused."""
    table = Table(show_header=False)
    for key, value in schedule_summary(schedule).items():
        if key == "units":
            table.add_row("units computed", f"{value['total'] - value['removed']} of {value['total']}")
            table.add_row("removed in cache steps", _removed(value))
            for kind, of_kind in value["by_kind"].items():
                table.add_row(f"removed of kind {kind}", _removed(of_kind))
        elif key == "tmacs":
            table.add_row("MACs of layers", _saving(value["layers"]))
            table.add_row("MACs with attention", _saving(value["with_attention"]))
        elif key == "predicted_speedup":
            table.add_row("predicted speed-up", f"{value:.2f}x")
        elif isinstance(value, dict):
            table.add_row(key, ", ".join(f"{name} {part}" for name, part in value.items()))
        else:
            table.add_row(key, str(value))
    mask = Text("\n".join("".join("█" if bit else "·" for bit in row) for row in schedule.table.compute))
    table.add_row("mask (steps down, units across)", mask)
    return table


def _removed(units: dict[str, Any]) -> str:
    share = units["removed"] / units["cache_steps"] if units["cache_steps"] else 0.0
    return f"{units['removed']} of {units['cache_steps']} ({share:.2%})"


def _saving(tmacs: dict[str, float]) -> str:
    return f"{tmacs['full']:.3g} T -> {tmacs['cached']:.3g} T"
