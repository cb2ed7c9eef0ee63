"""Commands of `l2c`, each a few lines over the function that does the work.

Those functions are imported inside the commands, so that `--help` does not wait for torch and Ray.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from l2c_ray.cli import imagenet, registry, schedules
from l2c_ray.cli.exit_codes import errors_as_exit_codes
from l2c_ray.cli.loopback import keep_private_ray_on_loopback
from l2c_ray.cli.options import (
    CheckpointOption,
    DeviceOption,
    GuidanceOption,
    GuidanceRuleOption,
    JsonOption,
    ModelArgument,
    NumberFormatOption,
    OverridesOption,
    RandomWeightsOption,
    SamplerOption,
    StepsOption,
    ThreadsOption,
    VaeOption,
    lasting,
)
from l2c_ray.errors import InvalidInputError
from l2c_ray.storage import environment
from l2c_ray.storage.account import complete_account

app = typer.Typer(
    help="Learns, versions and applies caching schedules for diffusion transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Usage errors are one line without it, as every other error is.
    rich_markup_mode=None,
)
app.add_typer(schedules.app, name="schedule")
app.add_typer(imagenet.app, name="imagenet")
app.add_typer(registry.app, name="registry")
app.command("drift")(registry.drift)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `l2c` with these arguments (the process's own unless given) and exits.

    Exit codes: 0 done, 2 bad input, 3 a gate says no, 1 a failure at run time. The last line on stderr names the cause.
    """
    complete_account()
    with errors_as_exit_codes():
        environment.normalize()
        sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    """Runs the command and returns its exit code.

    Raises:
        InvalidInputError: the command was used wrongly.
    """
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        if context is not None and error.message == context.get_help():
            # Asked for by giving no arguments at all.
            typer.echo(error.message, err=True)
            return error.exit_code
        command = context.command_path if context is not None else "l2c"
        raise InvalidInputError(command, error.format_message().rstrip("."), f"see {command} --help") from error


@app.command()
def learn(
    config: Annotated[Path, typer.Argument(help="TOML file, for instance jobs/configs/digits.toml.")],
    overrides: OverridesOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the schedules to, beside the registry.", callback=lasting)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Learn a schedule on the Ray cluster at $RAY_ADDRESS (or one started here), measure and register it."""
    keep_private_ray_on_loopback()
    from l2c_ray.cli.learning import learn_and_report
    from l2c_ray.config.learn import LearnConfig

    learn_and_report(LearnConfig.read(config, overrides or ()), out, as_json)


@app.command()
def encode(
    config: Annotated[Path, typer.Argument(help="TOML file, for instance jobs/configs/encode-imagenet-256.toml.")],
    overrides: OverridesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encode images to latents on the Ray cluster at $RAY_ADDRESS (or one started here); again, to go on."""
    keep_private_ray_on_loopback()
    from l2c_ray.cli.encoding import encode_and_report
    from l2c_ray.config.encoding import EncodingConfig

    encode_and_report(EncodingConfig.read(config, overrides or ()), as_json)


@app.command()
def search(
    config: Annotated[Path, typer.Argument(help="TOML file, for instance jobs/configs/digits-search.toml.")],
    overrides: OverridesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search for the cheapest schedules at each error: a study of learning runs, a version for each on its frontier."""
    keep_private_ray_on_loopback()
    from l2c_ray.cli.searching import search_and_report
    from l2c_ray.config.search import SearchConfig

    search_and_report(SearchConfig.read(config, overrides or ()), as_json)


@app.command()
def generate(
    model: ModelArgument,
    label: Annotated[int, typer.Option(min=0, help="Class to draw.")],
    out: Annotated[Path, typer.Option(help="PNG file to write.", callback=lasting)],
    seed: Annotated[int, typer.Option(min=0, max=2**53, help="Seed of the noise.")] = 0,
    schedule: Annotated[str | None, typer.Option(metavar="FILE|ALIAS", help="Which units to skip.")] = None,
    checkpoint: CheckpointOption = None,
    sampler: SamplerOption = None,
    steps: StepsOption = 20,
    guidance_scale: GuidanceOption = None,
    guidance_rule: GuidanceRuleOption = None,
    vae: VaeOption = None,
) -> None:
    """Make one image, with a schedule or computing everything."""
    from l2c_ray.cli.inputs import find_schedule, open_pipeline, read_schedule, require_known_label, require_there
    from l2c_ray.storage.files import require_writable, write_bytes

    # All this is checked before the model is loaded, which takes a while.
    require_known_label(model, checkpoint, label)
    require_there("--vae", str(vae) if vae else None)
    if schedule is not None:
        read_schedule(schedule)
    require_writable(out)
    pipeline = open_pipeline(model, checkpoint, sampler, steps, guidance_scale, guidance_rule)

    from l2c_ray.caching.pictures import Pictures
    from l2c_ray.caching.pipeline import encode_png

    pictures = Pictures(pipeline.model, vae, "--vae")
    chosen = find_schedule(schedule, pipeline) if schedule is not None else None
    sample = pipeline.generate([label], [seed], chosen)
    typer.echo(write_bytes(out, encode_png(pictures.of(sample)[0])))


@app.command()
def compare(
    model: ModelArgument,
    policies: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            help="Rule to compare with, over its curve unless settings are given; may be repeated. All by default.",
        ),
    ] = None,
    schedules: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|ALIAS|FOLDER",
            help="Schedules to compare; may be repeated. Those of the package by default.",
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=2, help="Images of the frontier protocol.")] = 512,
    first_seed: Annotated[
        int | None, typer.Option(min=0, max=2**53, help="Of the first image; the frontier protocol's unless given.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the table as JSON, the plots and heatmaps.", callback=lasting)
    ] = None,
    checkpoint: CheckpointOption = None,
    sampler: SamplerOption = None,
    steps: StepsOption = 20,
    guidance_scale: GuidanceOption = None,
    guidance_rule: GuidanceRuleOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the frontier protocol: schedules against fewer steps and every rule, on the same images."""
    from l2c_ray.cli.comparing import compare_and_report, require_comparable
    from l2c_ray.cli.inputs import open_pipeline

    require_comparable(policies or (), schedules or (), out)
    pipeline = open_pipeline(model, checkpoint, sampler, steps, guidance_scale, guidance_rule)
    compare_and_report(pipeline, policies or (), schedules or (), images, first_seed, out, as_json)


@app.command()
def bench(
    model: ModelArgument,
    schedule: Annotated[Path, typer.Option(metavar="FILE", help="Which units to skip.")],
    random_weights: RandomWeightsOption = False,
    checkpoint: CheckpointOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; guidance doubles them.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Pairs of a baseline and a cached run.")] = 3,
    dtype: NumberFormatOption = "float32",
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time baseline and cached sampling in turn, beside the speed-up that the multiply-accumulates promise."""
    from l2c_ray.cli.benching import bench_and_report
    from l2c_ray.cli.inputs import Weights

    weights = Weights(random_weights, checkpoint, device, dtype)
    bench_and_report(model, weights, schedule, batch_size, repeats, threads, as_json)


@app.command()
def profile(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="JSON file to write, for router.profile in a config.", callback=lasting)],
    random_weights: RandomWeightsOption = False,
    checkpoint: CheckpointOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in an evaluation; guidance makes two of one.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Evaluations, of which the median counts.")] = 20,
    dtype: NumberFormatOption = "float32",
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
) -> None:
    """Measure how long each unit takes on a device, so that a budget can be given as time."""
    from l2c_ray.cli.inputs import Weights
    from l2c_ray.cli.profiling import profile_and_report

    profile_and_report(model, Weights(random_weights, checkpoint, device, dtype), batch_size, repeats, threads, out)
