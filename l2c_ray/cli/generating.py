"""`l2c imagenet`: generates images in shards, or scores them, and reports the result."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from l2c_ray.cli.inputs import read_schedule, require_pipeline, require_there
from l2c_ray.cli.json_output import print_json
from l2c_ray.cli.output import console
from l2c_ray.cli.progress import progress_display
from l2c_ray.config.imagenet import GenerationConfig

if TYPE_CHECKING:
    from l2c_ray.evaluation.imagenet.scores import Scores


def generate_and_report(config: GenerationConfig, as_json: bool) -> None:
    """Generates with a progress display, then prints the result."""
    require_pipeline(config.model, config.sampler)
    require_there("model.vae", config.model.vae)
    if config.images.schedule:
        read_schedule(config.images.schedule)

    from l2c_ray.distributed.generation import generate

    with progress_display() as display:
        generated = generate(config, display.on_shards("making", config.images.count))
    if as_json:
        print_json(asdict(generated))
    else:
        there = f"{generated.images} images in {generated.shards} shards at {generated.address}"
        console.print(f"{there}, {generated.made_now} of them made now", soft_wrap=True)


def evaluate_and_report(images: str, reference: Path, weights: Path, batch_size: int, as_json: bool) -> None:
    """Scores images with a progress display, then prints the scores."""
    require_there("FOLDER|S3", images)
    require_there("--reference", str(reference))
    require_there("--inception", str(weights))

    import torch

    from l2c_ray.evaluation.imagenet import inception
    from l2c_ray.evaluation.imagenet.reference import Reference
    from l2c_ray.evaluation.imagenet.scores import Judge
    from l2c_ray.evaluation.imagenet.shards import ImageShards
    from l2c_ray.storage.opening import open_store

    generated, real = ImageShards(open_store(images)), Reference(reference)
    network = inception.load(weights, "cuda" if torch.cuda.is_available() else "cpu")
    with progress_display() as display:
        plan = f"looking at {generated.images:,} generated images and {real.images:,} of the reference batch"
        display.begin(plan, "images", generated.images + real.images)
        scores = Judge(network, batch_size, display.update).scores(generated, real)
    if as_json:
        print_json(scores.as_dict())
    else:
        console.print(_scores_table(scores))


def _scores_table(scores: Scores) -> Table:
    table = Table(title=f"{scores.images} images next to the reference batch", show_header=False)
    rows = {
        "FID": scores.fid,
        "sFID": scores.sfid,
        "Inception score": scores.inception_score,
        "precision": scores.precision,
        "recall": scores.recall,
    }
    for name, value in rows.items():
        table.add_row(name, "-" if value is None else f"{value:.4g}")
    return table
