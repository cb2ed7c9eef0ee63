"""Options that several commands take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from l2c_ray.schedule import MOST_STEPS, GuidanceRule
from l2c_ray.storage.places import require_lasting

Device = Literal["cpu", "cuda"]
NumberFormat = Literal["float32", "bfloat16"]


def lasting(option: typer.CallbackParam, path: Path | None) -> Path | None:
    """The callback of every option that names what is written: a job may write to no relative place.

    Raises:
        ConfigError: this is a job, and the path is relative.
    """
    if path:
        require_lasting(f"{option.opts[0]} {path}", str(path))
    return path


ModelArgument = Annotated[str, typer.Argument(help="Name in the zoo, for instance digits-dit.")]
CheckpointOption = Annotated[
    Path | None, typer.Option(help="Other weights: a file of the authors', or a folder in diffusers' layout.")
]
VaeOption = Annotated[
    Path | None, typer.Option(help="Folder of diffusers' AutoencoderKL, which decodes what a model of latents makes.")
]
SamplerOption = Annotated[str | None, typer.Option(help="Sampler; that of the model's authors unless given.")]
StepsOption = Annotated[int, typer.Option(min=2, max=MOST_STEPS, help="Model evaluations per image.")]
GuidanceOption = Annotated[
    float | None, typer.Option(min=0, help="Classifier-free guidance scale; the model's own unless given.")
]
GuidanceRuleOption = Annotated[GuidanceRule | None, typer.Option(help="How guidance combines the evaluations.")]
OverridesOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a config key.")]
RandomWeightsOption = Annotated[bool, typer.Option("--random-weights", help="Take an untrained model.")]
NumberFormatOption = Annotated[NumberFormat, typer.Option(help="Number format of weights and samples.")]
DeviceOption = Annotated[Device, typer.Option(help="Where the model runs.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads; torch's choice unless given.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
