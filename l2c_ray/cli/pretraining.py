"""The pretraining job: trains a model from scratch and prints its card."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import typer

from l2c_ray.cli.progress import progress_display
from l2c_ray.config.pretraining import PretrainingConfig
from l2c_ray.models import zoo
from l2c_ray.storage import environment
from l2c_ray.storage.places import require_lasting


def pretrain_and_report(config_file: Path, overrides: Sequence[str], out: Path) -> None:
    """Trains with a progress display, writes the model to the folder `out`, and prints its card."""
    environment.normalize()
    require_lasting(f"--out {out}", str(out))
    config = PretrainingConfig.read(config_file, overrides)
    zoo.entry_of(config.name, "name")

    from l2c_ray.evaluation.model_card import JOB, require_replaceable, write_model_folder
    from l2c_ray.learning.pretraining import pretrain

    require_replaceable(out)
    with progress_display() as display:

        def on_start(done: int) -> None:
            plan = (
                f"training {config.name} in {config.steps} steps of {config.batch_size} images, {done} of them are done"
            )
            display.begin(plan, "pretraining", config.steps, done)

        pretrained = pretrain(config, lambda done, loss: display.update(done, f"loss {loss:.4f}"), on_start)
    changes = [part for override in overrides for part in ("--set", override)]
    command = shlex.join(["python", JOB, "--config", str(config_file), *changes, "--out", str(out)])
    typer.echo(write_model_folder(out, pretrained, config, command))
