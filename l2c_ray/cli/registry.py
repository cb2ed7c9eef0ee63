"""Commands of `l2c registry`, and `l2c drift`: versions, their details and their aliases."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from l2c_ray.cli.loopback import keep_private_ray_on_loopback
from l2c_ray.cli.options import CheckpointOption, JsonOption, OverridesOption, lasting

app = typer.Typer(help="Look at registered schedules, promote them and take that back.", no_args_is_help=True)

VersionArgument = Annotated[str, typer.Argument(metavar="NAME@ALIAS|NAME/VERSION", help="Which version.")]
NameArgument = Annotated[str, typer.Argument(help="Of the registered model, for instance digits-dit-ddim-20.")]


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List all registered schedules, newest first."""
    from l2c_ray.cli.json_output import print_json
    from l2c_ray.cli.output import console, versions_table
    from l2c_ray.registry import tracking
    from l2c_ray.registry.versions import list_versions

    versions = list_versions(tracking.connect())
    if as_json:
        print_json([asdict(version) for version in versions], indent=1)
    else:
        console.print(versions_table(versions))


@app.command("show")
def show(version: VersionArgument, as_json: JsonOption = False) -> None:
    """Tell everything of one version: schedule, lineage, metrics, verdicts of gates, moves of its aliases."""
    from l2c_ray.cli.versions import show_and_report

    show_and_report(version, as_json)


@app.command("diff")
def diff(first: VersionArgument, second: VersionArgument, as_json: JsonOption = False) -> None:
    """Tell where two versions differ: units by step and kind, cost and metrics."""
    from l2c_ray.cli.versions import diff_and_report

    diff_and_report(first, second, as_json)


@app.command("export")
def export(
    version: VersionArgument,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; stdout unless given.", callback=lasting)
    ] = None,
) -> None:
    """Write the schedule of a version as a schedule file, which is JSON."""
    from l2c_ray.registry import tracking
    from l2c_ray.registry.versions import load_schedule, look_up, parse_reference
    from l2c_ray.storage.files import write_text

    parse_reference(version)
    text = load_schedule(look_up(tracking.connect(), version)).to_json()
    typer.echo(write_text(out, text) if out else text, nl=bool(out))


@app.command("promote")
def promote(
    name: Annotated[str | None, typer.Argument(help="Of the registered model; in the config unless given.")] = None,
    version: Annotated[
        int | None, typer.Argument(help="Unless given here or in the config, the rule of the tiers chooses.")
    ] = None,
    alias: Annotated[list[str] | None, typer.Option(help="Alias to move; may be repeated.")] = None,
    why: Annotated[str | None, typer.Option(help="Reason, for the history of the alias.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with the gate, for instance jobs/configs/promote-digits.toml.")
    ] = None,
    overrides: OverridesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a version anew on the Ray cluster, and move an alias to it if it passes the gate; exit code 3 if not."""
    keep_private_ray_on_loopback()
    from l2c_ray.cli.promoting import promote_and_report
    from l2c_ray.config.promotion import PromotionConfig

    given = {"name": name, "version": version, "alias": alias, "why": why}
    options = {f"promotion.{key}": value for key, value in given.items() if value is not None}
    promote_and_report(PromotionConfig.read(config, overrides or (), options), as_json)


@app.command("push")
def push(as_json: JsonOption = False) -> None:
    """Take to the tracking server what it was away for: results of runs that are kept in files since."""
    from l2c_ray.cli.json_output import print_json
    from l2c_ray.cli.output import console, print_registered
    from l2c_ray.registry import tracking
    from l2c_ray.registry.delivery import push as push_all
    from l2c_ray.registry.versions import RegisteredVersion

    client, versions = tracking.connect(), list[RegisteredVersion]()

    def report(version: RegisteredVersion) -> None:
        versions.append(version)
        if not as_json:
            print_registered(version)

    try:
        push_all(client, report)
    finally:
        # Delivered versions, also if the rest failed.
        if as_json:
            print_json([asdict(version) for version in versions], indent=1)
    if not versions and not as_json:
        console.print("nothing is kept that the tracking server has not got")


@app.command("rollback")
def rollback(
    name: NameArgument,
    alias: Annotated[str, typer.Option(help="Alias to move back.")],
    why: Annotated[str, typer.Option(help="Reason, for the history of the alias.")] = "no reason given",
    as_json: JsonOption = False,
) -> None:
    """Move an alias to where it was before its last move; nothing is measured."""
    from l2c_ray.cli.json_output import print_json
    from l2c_ray.cli.output import console, move_in_words
    from l2c_ray.registry import tracking
    from l2c_ray.registry.aliases import roll_back

    move = roll_back(tracking.connect(), name, alias, why)
    if as_json:
        print_json(asdict(move))
    else:
        console.print(move_in_words(move), soft_wrap=True)


def drift(
    version: VersionArgument,
    checkpoint: CheckpointOption = None,
    images: Annotated[
        int | None, typer.Option(min=2, help="Of the frontier protocol; as many as the version was measured on.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images sampled at a time.")] = 64,
    as_json: JsonOption = False,
) -> None:
    """Measure a live schedule again and hold it against what its version says; exit code 3 if that no longer holds."""
    from l2c_ray.cli.drifting import drift_and_report

    drift_and_report(version, checkpoint, images, batch_size, as_json)
