"""`l2c compare`: runs the frontier protocol in this process and reports the results."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2c_ray.cli.inputs import find_schedule, read_schedule
from l2c_ray.cli.json_output import print_json
from l2c_ray.cli.output import console, frontier_table
from l2c_ray.cli.progress import progress_display
from l2c_ray.errors import StorageError
from l2c_ray.policies.rules import chosen_rules, every_rule
from l2c_ray.storage.files import make_writable, write_bytes, write_text
from l2c_ray.strict_json import lenient

if TYPE_CHECKING:
    from l2c_ray.caching.pipeline import Pipeline
    from l2c_ray.evaluation.comparison import Comparison
    from l2c_ray.evaluation.frontier import Measurement
    from l2c_ray.policies.rules import NamedSettings
    from l2c_ray.schedule import Schedule

_LEAST_CHUNK, _MOST_CHUNK = 8, 64
_CHUNKS = 8
"""Chunks per candidate if there are images enough: the median of their times bears a machine that is busy."""


def require_comparable(policies: Sequence[str], schedules: Sequence[str], out: Path | None) -> None:
    """Refuses inputs that are wrong for any model, before one is loaded.

    Raises:
        ConfigError, StorageError, ScheduleError: names the rule, file or folder.
    """
    chosen_rules(policies)
    for name in _in_folders(schedules):
        read_schedule(name)
    if out:
        make_writable(out)


def compare_and_report(
    pipeline: Pipeline,
    policies: Sequence[str],
    schedules: Sequence[str],
    images: int,
    first_seed: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measures the schedules and their rivals; prints a table or JSON, and writes table, plots and schedules to `out`.

    Args:
        policies: as `chosen_rules` reads them; every rule where there are none.
        schedules: files, folders and aliases; the schedules that ship in the package where there are none.
        first_seed: of the first image; the frontier protocol's unless given.
    """
    from l2c_ray.evaluation.frontier import FIRST_SEED
    from l2c_ray.evaluation.plots import plot_frontier, plot_frontier_over_time, plot_schedule
    from l2c_ray.evaluation.shipped import shipped_schedules

    first_seed = FIRST_SEED if first_seed is None else first_seed
    rules = chosen_rules(policies or every_rule())
    chosen = _find_all(schedules, pipeline) if schedules else shipped_schedules(pipeline)
    comparison = measure_frontier(pipeline, chosen, rules, images, first_seed)
    report = _as_dict(pipeline, images, first_seed, comparison)
    if as_json:
        print_json(report, indent=1)
    else:
        console.print(frontier_table(comparison))
    if out:
        write_text(out / "frontier.json", lenient(report) + "\n")
        write_bytes(out / "frontier.png", plot_frontier(comparison))
        write_bytes(out / "frontier-time.png", plot_frontier_over_time(comparison))
        for name, schedule in chosen.items():
            # Two files may have one name; the hash tells them apart.
            stem = f"{Path(name).name.removesuffix('.json')}-{schedule.sha256[:8]}"
            write_text(out / "schedules" / f"{stem}.json", schedule.to_json())
            write_bytes(out / "schedules" / f"{stem}.png", plot_schedule(schedule))


def _find_all(given: Sequence[str], pipeline: Pipeline) -> dict[str, Schedule]:
    """The schedules that the names stand for, by file or alias; a folder stands for every schedule in it."""
    return {name: find_schedule(name, pipeline) for name in _in_folders(given)}


def _in_folders(given: Sequence[str]) -> list[str]:
    """The names, each folder's schedules in its place."""
    return [name for folder_or_name in given for name in _in_folder(folder_or_name) or [folder_or_name]]


def _in_folder(name: str) -> list[str]:
    """The schedule files in the folder `name`; none if there is no such folder, or a name that may be an alias.

    Raises:
        StorageError: what is written like a path is a folder without schedules.
    """
    try:
        if not name or not Path(name).is_dir():
            return []
    except OSError:
        # Too long for the name of a folder.
        return []
    files = [str(file) for file in sorted(Path(name).glob("*.json"))]
    if not files and "/" in name:
        raise StorageError(name, "holds no schedules (*.json)", "name a folder that does, a file or an alias")
    return files


def measure_frontier(
    pipeline: Pipeline,
    schedules: dict[str, Schedule],
    rules: Sequence[NamedSettings],
    images: int,
    first_seed: int,
) -> Comparison[Measurement]:
    """Runs the frontier protocol with progress on stderr: schedules, fewer steps and rules on the same images."""
    from l2c_ray.data import digits
    from l2c_ray.evaluation.candidates import frontier_candidates
    from l2c_ray.evaluation.frontier import Sampler, measure

    model = pipeline.model
    chunk = max(_LEAST_CHUNK, min(_MOST_CHUNK, images // _CHUNKS))
    with progress_display() as display:

        def on_calibrated(done: int, total: int) -> None:
            if not done:
                display.begin(f"calibrating rules on the baseline's {total} images", "calibrating", total)
            else:
                display.update(done)

        candidates = frontier_candidates(pipeline, schedules, rules, on_calibrated)
        sampler = Sampler(pipeline, chunk)
        real = digits.images_to_judge(model.image_shape)
        on_images = partial(display.on_images, title="comparing")
        return measure(candidates, sampler, images, model.num_classes, real, chunk, on_images, first_seed)


def _as_dict(pipeline: Pipeline, images: int, first_seed: int, comparison: Comparison[Measurement]) -> dict[str, Any]:
    from l2c_ray.evaluation.frontier import PROTOCOL

    solver, guidance = pipeline.solver, pipeline.guidance
    return {
        "protocol": PROTOCOL,
        "images": images,
        "first_seed": first_seed,
        "model": pipeline.model.name,
        "sampler": {"name": solver.name, "steps": solver.steps},
        "guidance": guidance.model_dump(),
        "rows": [measurement.as_dict() for measurement in comparison],
    }
