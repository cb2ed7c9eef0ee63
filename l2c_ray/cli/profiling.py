"""`l2c profile`: measures the time of a model's units and writes the profile for time budgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from l2c_ray.cli.inputs import Weights
from l2c_ray.cli.output import console
from l2c_ray.cli.progress import progress_display
from l2c_ray.config.profile import Profile
from l2c_ray.storage.files import require_writable, write_text

if TYPE_CHECKING:
    from l2c_ray.models.base import CacheableTransformer


def profile_and_report(
    name: str, weights: Weights, batch_size: int, repeats: int, threads: int | None, out: Path
) -> None:
    """Times the units, writes the profile to `out` and prints the share of each kind of unit in an evaluation."""
    weights.require_possible(name)
    require_writable(out)

    import torch

    from l2c_ray.caching.profiling import profile

    model = weights.load(name)
    if threads is not None:
        torch.set_num_threads(threads)
    with progress_display() as display:
        plan = f"timing the {len(model.units)} units in {repeats} evaluations of {batch_size} images"
        display.begin(plan, "timing", repeats)
        measured = profile(model, batch_size, repeats, display.update)
    write_text(out, measured.to_json())
    console.print(_table(model, measured))
    console.print(f"written to {out}", soft_wrap=True)


def _table(model: CacheableTransformer, measured: Profile) -> Table:
    whole = sum(measured.units.values()) + measured.shared
    title = f"one evaluation of {measured.batch_size} images on {measured.device}, {measured.dtype}"
    table = Table("what", "milliseconds", "share", title=title)
    times = {
        f"all {kind} units": sum(measured.units[unit.name] for unit in model.units if unit.kind == kind)
        for kind in ("attention", "mlp")
    }
    for what, seconds in (times | {"what no schedule can skip": measured.shared}).items():
        table.add_row(what, f"{1e3 * seconds:.3f}", f"{seconds / whole:.3f}")
    return table
