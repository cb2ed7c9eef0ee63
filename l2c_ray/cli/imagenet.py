"""Commands of `l2c imagenet`: many images in shards, and their scores next to a reference batch."""

from pathlib import Path
from typing import Annotated

import typer

from l2c_ray.cli.loopback import keep_private_ray_on_loopback
from l2c_ray.cli.options import JsonOption, OverridesOption

app = typer.Typer(help="Generate images by the thousand and judge them as papers on ImageNet do.", no_args_is_help=True)


@app.command("generate")
def generate(
    config: Annotated[Path, typer.Argument(help="TOML file, for instance jobs/configs/imagenet-dit-xl-2-256.toml.")],
    overrides: OverridesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate images on the Ray cluster at $RAY_ADDRESS (or one started here); again, to go on with what is there."""
    keep_private_ray_on_loopback()
    from l2c_ray.cli.generating import generate_and_report
    from l2c_ray.config.imagenet import GenerationConfig

    generate_and_report(GenerationConfig.read(config, overrides or ()), as_json)


@app.command("evaluate")
def evaluate(
    images: Annotated[str, typer.Argument(metavar="FOLDER|S3", help="Where images were generated.")],
    reference: Annotated[Path, typer.Option(help="Reference batch of the ADM evaluator, .npz.")],
    inception: Annotated[Path, typer.Option(help="Weights pt_inception-2015-12-05, .pth or .safetensors.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images that the network sees at a time.")] = 64,
    as_json: JsonOption = False,
) -> None:
    """Measure FID, sFID, Inception score, precision and recall of generated images."""
    from l2c_ray.cli.generating import evaluate_and_report

    evaluate_and_report(images, reference, inception, batch_size, as_json)
