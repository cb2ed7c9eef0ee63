"""Commands of `l2c schedule`, which need neither weights nor a registry."""

from pathlib import Path
from typing import Annotated

import typer

from l2c_ray.cli.options import GuidanceOption, GuidanceRuleOption, JsonOption, SamplerOption, StepsOption, lasting
from l2c_ray.interop.formats import ExportFormat, ImportFormat

app = typer.Typer(help="Look at schedule files, import and export them.", no_args_is_help=True)

FileArgument = Annotated[Path, typer.Argument(help="Schedule file.")]


@app.command("show")
def show(file: FileArgument, as_json: JsonOption = False) -> None:
    """Check a schedule file and say what it computes and what it saves."""
    from l2c_ray.cli.json_output import print_json
    from l2c_ray.cli.output import console, schedule_summary, schedule_table
    from l2c_ray.schedule import Schedule
    from l2c_ray.storage.files import read_text

    schedule = Schedule.from_json(read_text(file), source=str(file))
    if as_json:
        print_json(schedule_summary(schedule), indent=1)
    else:
        console.print(schedule_table(schedule))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A router of the paper's authors, or a SmoothCache schedule.")],
    model: Annotated[str, typer.Option(help="Name in the zoo, for instance dit-xl-2-256; its weights are not needed.")],
    steps: StepsOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="Schedule file to write.", callback=lasting)],
    sampler: SamplerOption = None,
    threshold: Annotated[float | None, typer.Option(help="Compute where a router's score is above this.")] = None,
    guidance_scale: GuidanceOption = None,
    guidance_rule: GuidanceRuleOption = None,
    file_format: Annotated[
        ImportFormat | None, typer.Option("--format", help="Of the file; recognised unless given.")
    ] = None,
) -> None:
    """Make a schedule of another project's file; a pickle that would run anything is refused and not run."""
    from l2c_ray.cli.converting import format_of, import_and_report
    from l2c_ray.cli.inputs import guidance_of
    from l2c_ray.models import zoo
    from l2c_ray.sampling import solvers

    guidance = guidance_of(model, "--model", guidance_scale, guidance_rule)
    sampler = sampler or zoo.entry_of(model, "--model").sampler
    solvers.require(sampler, steps)
    file_format = format_of(file, file_format, threshold)

    from l2c_ray.caching.pipeline import Pipeline

    skeleton = zoo.skeleton(model)
    pipeline = Pipeline(skeleton, solvers.make_solver(sampler, steps, skeleton), guidance)
    import_and_report(file, file_format, pipeline, threshold, out)


@app.command("export")
def export(
    file: FileArgument,
    to: Annotated[ExportFormat, typer.Option(help="Whose format.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; stdout unless given.", callback=lasting)
    ] = None,
) -> None:
    """Write a schedule in another project's format, and say on stderr what is lost."""
    from l2c_ray.cli.converting import export_and_report

    export_and_report(file, to, out)
