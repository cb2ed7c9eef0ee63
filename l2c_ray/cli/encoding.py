"""Encodes images to latents and tells what comes of it."""

import json
from dataclasses import asdict

import typer

from l2c_ray.cli.output import console, notes
from l2c_ray.cli.progress import progress_display
from l2c_ray.config.encoding import EncodingConfig
from l2c_ray.distributed.encoding import encode


def encode_and_report(config: EncodingConfig, as_json: bool) -> None:
    """Encodes with progress on the way, then says what is where."""
    with progress_display() as display:
        encoded = encode(config, display.on_shards("encoding"))
    if encoded.skipped:
        notes.print(f"warning: {encoded.skipped} broken images were left out", soft_wrap=True)
    if as_json:
        typer.echo(json.dumps(asdict(encoded)))
    else:
        there = f"{encoded.images} latents in {encoded.shards} shards at {encoded.address}"
        console.print(f"{there}, {encoded.made_now} of them made now", soft_wrap=True)
