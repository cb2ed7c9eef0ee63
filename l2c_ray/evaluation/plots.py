"""Pictures of schedules, frontiers and images, as PNG bytes. People look before they read."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from l2c_ray.caching.pipeline import to_pixels
from l2c_ray.evaluation.comparison import Comparison
from l2c_ray.evaluation.frontier import Candidate, Measurement, SampleImages
from l2c_ray.schedule import L2C, LEARNED, Schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLE_IMAGES = 8
"""Images in a row of a grid; image i has label i mod the number of classes and seed i."""

_STARRED = {LEARNED: "black", L2C: "crimson"}


def plot_schedule(schedule: Schedule, scores: Tensor | None = None) -> bytes:
    """A heatmap of steps over units: the router's `scores` [steps, units] where known, framed where computed."""
    steps, units = schedule.sampler.steps, len(schedule.model.units)
    mask = np.array(schedule.table.compute)
    figure = _figure(2 + 0.32 * units, 1.8 + 0.27 * steps)
    axes = figure.subplots()
    shown = axes.imshow(mask if scores is None else scores.numpy(), vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for step, unit in zip(*np.nonzero(mask == 0), strict=True):
        axes.text(unit, step, "×", ha="center", va="center", color="white", fontsize=8)
    axes.set_xticks(range(units), [_short_name(name) for name in schedule.model.units], rotation=90, fontsize=7)
    axes.set_yticks(range(steps), [f"{step}" for step in range(steps)], fontsize=7)
    axes.set_xlabel("unit (A attention, M MLP of each block)")
    axes.set_ylabel("step (0 is the noisiest)")
    axes.set_title(
        f"{schedule.model.name}, {schedule.sampler.name} {steps} steps: "
        f"{schedule.compute_share:.0%} of the compute (× = reused)"
    )
    figure.colorbar(shown, label="computed" if scores is None else "router score")
    return _png(figure)


def plot_frontier(measurements: Iterable[Measurement]) -> bytes:
    """Error over compute share; `_plot_curves` says how."""
    return _plot_curves(
        measurements,
        lambda measurement: measurement.compute_share,
        "compute share (multiply-accumulates, baseline = 1)",
    )


def plot_frontier_over_time(measurements: Iterable[Measurement]) -> bytes:
    """Error over the measured share of the baseline's time; `_plot_curves` says how."""
    return _plot_curves(measurements, lambda measurement: 1 / measurement.speedup, "measured time share (baseline = 1)")


def _plot_curves(measurements: Iterable[Measurement], position: Callable[[Measurement], float], label: str) -> bytes:
    """One line per curve, on a logarithmic axis; points without error, as the baseline, are left out. Learned curves
    stand out.

    Args:
        position: the place on the horizontal axis that `label` names.
    """
    curves: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for measurement in measurements:
        if measurement.mse > 0:
            curves[measurement.curve].append((position(measurement), measurement.mse))
    figure = _figure(9, 5)
    axes = figure.subplots()
    # Different lengths, so that a marker comes back in another colour.
    others = zip(cycle("osD^vP"), cycle([*(f"C{number}" for number in range(10)), "navy"]))
    for curve, points in curves.items():
        (line,) = axes.plot(*zip(*sorted(points), strict=True), label=curve, linewidth=1.2, markersize=5)
        if curve in _STARRED:
            line.set(marker="*", color=_STARRED[curve], linewidth=2.5, markersize=13, zorder=3)
        else:
            marker, colour = next(others)
            line.set(marker=marker, color=colour)
    axes.set_yscale("log")
    rightmost = max((place for points in curves.values() for place, _ in points), default=1.0)
    axes.set_xlim(0, 1.02 * max(1.0, rightmost))
    axes.set_xlabel(label)
    axes.set_ylabel("mean squared error to the baseline")
    axes.grid(visible=True, which="both", alpha=0.25)
    if curves:
        figure.legend(loc="outside right center", fontsize=9)
    return _png(figure)


def plot_trials(trials: Sequence[tuple[float, float]], frontier: Sequence[tuple[float, float]], cost: str) -> bytes:
    """(cost, error) of every trial of a study, and the line of its Pareto frontier."""
    figure = _figure(7, 5)
    axes = figure.subplots()
    axes.plot(*zip(*trials, strict=True), linestyle="", marker="o", markersize=5, color="silver", label="trials")
    axes.plot(*zip(*frontier, strict=True), marker="*", markersize=13, color="black", label="frontier")
    if any(error > 0 for _, error in trials):
        axes.set_yscale("log")
    axes.set_xlabel(cost.replace("_", " "))
    axes.set_ylabel("mean squared error to the baseline")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize=9)
    return _png(figure)


def plot_images(rows: Sequence[tuple[str, Tensor]]) -> bytes:
    """Rows of n images [n, 1 or 3, height, width] in [-1, 1] under one another, each with its title."""
    columns = len(rows[0][1])
    figure = _figure(0.9 * columns, 1.25 * len(rows))
    bands = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for band, (title, images) in zip(bands, rows, strict=True):
        band.suptitle(title, x=0.01, ha="left", fontsize=9)
        for axes, image in zip(band.subplots(1, columns, squeeze=False)[0], to_pixels(images), strict=True):
            axes.set_axis_off()
            axes.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255)
    return _png(figure)


def plot_samples(candidates: Comparison[Candidate], sample: SampleImages, num_classes: int) -> dict[str, bytes]:
    """A picture for each schedule, by name: the baseline's images above the schedule's, on fixed seeds.

    The model must draw pixels.
    """
    seeds = range(SAMPLE_IMAGES)
    labels = [number % num_classes for number in seeds]
    baseline = ("everything computed", sample(candidates.baseline, labels, seeds).images)
    pictures = {}
    for name, candidate in candidates.schedules.items():
        images = sample(candidate, labels, seeds).images
        pictures[name] = plot_images([baseline, (f"{candidate.name}: {candidate.compute_share:.0%}", images)])
    return pictures


def _short_name(unit: str) -> str:
    block, _, kind = unit.rpartition(".")
    return f"{kind[:1].upper()}{block.rpartition('.')[2]}"


def _figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
