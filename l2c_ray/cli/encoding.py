"""`l2c encode`: encodes images to latents and reports the result."""

from dataclasses import asdict

from l2c_ray.cli.inputs import require_there
from l2c_ray.cli.json_output import print_json
from l2c_ray.cli.output import console, notes
from l2c_ray.cli.progress import progress_display
from l2c_ray.config.encoding import EncodingConfig


def encode_and_report(config: EncodingConfig, as_json: bool) -> None:
    """Encodes with a progress display, then prints the result."""
    require_there("source.images", config.source.images)
    require_there("latents.vae", config.latents.vae)

    from l2c_ray.data.sources.base import told
    from l2c_ray.distributed.encoding import encode

    with progress_display() as display:
        encoded = encode(config, display.on_shards("encoding"))
    if encoded.skipped:
        notes.print(f"warning: {encoded.skipped} broken images were left out", soft_wrap=True)
    if encoded.passed_over:
        notes.print(f"passed over what is no image: {told(encoded.passed_over)}", soft_wrap=True)
    if as_json:
        print_json(asdict(encoded))
    else:
        there = f"{encoded.images} latents in {encoded.shards} shards at {encoded.address}"
        console.print(f"{there}, {encoded.made_now} of them made now", soft_wrap=True)
