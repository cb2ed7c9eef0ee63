#!/usr/bin/env python
"""Trains the embedded digits model, resuming from the last checkpoint, and writes it with its model card."""

import argparse
import sys
from pathlib import Path

from diffusers import DDIMScheduler
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from l2c_ray.config.pretraining import PretrainingConfig
from l2c_ray.data import digits
from l2c_ray.errors import L2CError
from l2c_ray.evaluation.model_card import write_model_folder
from l2c_ray.learning.pretraining import Pretrainer
from l2c_ray.storage.files import home
from l2c_ray.storage.tensors import read_tensors, write_tensors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML file, see jobs/configs/pretrain-digits.toml")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    arguments = parser.parse_args()
    try:
        config = PretrainingConfig.read(arguments.config, arguments.set)
        scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
        loss, model = pretrain(config, scheduler)
        command = f"python jobs/pretrain.py --config {arguments.config} --out {arguments.out}"
        print(write_model_folder(arguments.out, model, scheduler, config, loss, command))
    except L2CError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def pretrain(config: PretrainingConfig, scheduler: DDIMScheduler):
    """Trains to the end; returns the loss averaged over the last steps and the model."""
    data = digits.load()
    trainer = Pretrainer(config, scheduler, data.images, data.labels)
    checkpoint = home() / "pretraining" / config.name / "checkpoint.safetensors"
    if checkpoint.exists():
        trainer.load_state(read_tensors(checkpoint))
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    ) as progress:
        task = progress.add_task(
            config.name, total=config.steps, completed=trainer.step_index, loss=trainer.recent_loss
        )
        while trainer.step_index < config.steps:
            trainer.step()
            progress.update(task, completed=trainer.step_index, loss=trainer.recent_loss)
            if trainer.step_index % config.checkpoint_every == 0 or trainer.step_index == config.steps:
                write_tensors(checkpoint, trainer.state())
    return trainer.recent_loss, trainer.average()


if __name__ == "__main__":
    sys.exit(main())
