"""`l2c registry show` and `diff`: details of a version, and differences between two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from l2c_ray.cli.json_output import print_json
from l2c_ray.cli.output import checks_table, console, move_in_words, schedule_summary, schedule_table
from l2c_ray.evaluation.difference import difference
from l2c_ray.registry import tracking
from l2c_ray.registry.details import details
from l2c_ray.registry.versions import load_schedule, look_up, parse_reference

if TYPE_CHECKING:
    from l2c_ray.evaluation.difference import Difference
    from l2c_ray.registry.details import VersionDetails
    from l2c_ray.schedule import Schedule


def show_and_report(reference: str, as_json: bool) -> None:
    """Prints the details of a version, and its schedule."""
    parse_reference(reference)
    client = tracking.connect()
    shown = details(client, look_up(client, reference))
    schedule = load_schedule(shown.version)
    if as_json:
        print_json({**shown.as_dict(), "schedule": schedule_summary(schedule)}, indent=1)
        return
    console.print(_details_table(shown))
    console.print(schedule_table(schedule))
    for alias, verdict in shown.gates.items():
        console.print(f"gate for {alias}, {'passed' if verdict['passed'] else 'failed'} {verdict['when']}")
        console.print(checks_table(verdict["checks"]))
    for move in shown.moves:
        console.print(move_in_words(move), soft_wrap=True)


def diff_and_report(first: str, second: str, as_json: bool) -> None:
    """Prints the differences between two versions."""
    references = (first, second)
    for reference in references:
        parse_reference(reference)
    client = tracking.connect()
    versions = [look_up(client, reference) for reference in references]
    schedules = [load_schedule(version) for version in versions]
    found = difference(*schedules)
    if as_json:
        print_json({"versions": [version.uri for version in versions], **found.as_dict()}, indent=1)
        return
    console.print(_numbers_table([version.uri for version in versions], schedules, found))
    console.print(_units_table(found))


def _details_table(shown: VersionDetails) -> Table:
    version = shown.version
    rows: dict[str, Any] = {
        "version": version.uri,
        "aliases": ", ".join(version.aliases) or "-",
        "worth serving": "yes" if version.worth_serving else "no, fewer steps do as well",
        "protocol": version.protocol,
        "MLflow run": version.run_id,
        **{f"lineage: {name}": value for name, value in shown.lineage.items()},
        **{f"metric: {name}": f"{value:.4g}" for name, value in shown.metrics.items()},
    }
    table = Table(show_header=False)
    for key, value in rows.items():
        table.add_row(key, value)
    return table


def _numbers_table(names: list[str], schedules: list[Schedule], found: Difference) -> Table:
    table = Table()
    for heading in ("", *names):
        table.add_column(heading)
    macs = [f"{schedule.cost.with_attention.cached / 1e12:.4g}" for schedule in schedules]
    table.add_row("compute share", *(f"{share:.4f}" for share in found.compute_share))
    table.add_row("TMACs", *macs)
    for name, values in found.metrics.items():
        table.add_row(name, *("-" if value is None else f"{value:.4g}" for value in values))
    table.add_row("forecasts that differ", str(found.forecasts), str(found.forecasts))
    return table


def _units_table(found: Difference) -> Table:
    table = Table(title="units that only one of them computes")
    for heading in ("step", "kind", "the first", "the second"):
        table.add_column(heading)
    for row in found.units:
        sides = (row.only_first, row.only_second)
        table.add_row(str(row.step), row.kind, *(_blocks(names) for names in sides))
    return table


def _blocks(names: tuple[str, ...]) -> str:
    return ", ".join(name.rpartition(".")[0] for name in names) or "-"
