"""Reuse while the change measured on a calibration set is small (SmoothCache, arXiv 2411.10510)."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal, get_args
from weakref import WeakKeyDictionary

from pydantic import Field

from l2c_ray.caching.dynamic import relative_change
from l2c_ray.config.base import Section
from l2c_ray.policies.calibration_set import CalibrationSeed, OnCalibrated, calibration_set
from l2c_ray.schedule import SamplerIdentity, Table

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from l2c_ray.caching.pipeline import Pipeline
    from l2c_ray.models.base import CacheableTransformer, UnitHandler

Grouping = Literal["kind", "unit"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)

_BATCH_SIZE = 4
"""Bounds the memory: the outputs of all units at `max_gap` steps are kept for one batch."""


class Calibrated(Section):
    """Settings of the rule."""

    alpha: Annotated[float, Field(ge=0)]
    """Reuse where the relative L1 error is below this."""
    by: Grouping = "kind"
    """Units that decide together: all of a kind by their mean error, as in the paper, or each by its own error."""
    images: Annotated[int, Field(ge=1)] = 32
    """Size of the calibration set."""
    seed: CalibrationSeed = 0
    """Seed of the calibration set."""
    max_gap: Annotated[int, Field(ge=1, le=1000)] = 3
    """Most steps in a row that reuse one value."""


_CalibrationKey = tuple[SamplerIdentity, int, int, int]
_calibrations: WeakKeyDictionary[CacheableTransformer, dict[_CalibrationKey, Tensor]] = WeakKeyDictionary()
"""Results of `calibrate` by model; all thresholds share one."""


def make(pipeline: Pipeline, settings: Calibrated) -> Table:
    """The rule's table for this model and sampler; the first table of a calibration set samples that set in full."""
    errors = calibrate(pipeline, settings)
    if settings.by == "kind":
        errors = _mean_of_kind(errors, [unit.kind for unit in pipeline.model.units])
    return reuse_below(errors, settings.alpha)


def calibrate(pipeline: Pipeline, settings: Calibrated, on_images: OnCalibrated = lambda done, total: None) -> Tensor:
    """The result of `calibration_errors` for these settings, sampled once for all that share a calibration set."""
    max_gap = min(settings.max_gap, pipeline.solver.steps - 1)
    key = (pipeline.solver.identity(pipeline.guidance), settings.images, settings.seed, max_gap)
    calibrations = _calibrations.setdefault(pipeline.model, {})
    if key not in calibrations:
        calibrations[key] = calibration_errors(pipeline, settings.images, settings.seed, max_gap, on_images)
    return calibrations[key]


def calibration_errors(
    pipeline: Pipeline, images: int, seed: int, max_gap: int, on_images: OnCalibrated = lambda done, total: None
) -> Tensor:
    """Relative change of each unit's output over the last `max_gap` steps, in baseline runs.

    Returns:
        [steps, units, max_gap]: at [k, i, g - 1] the L1 distance of unit i's outputs at steps k and k - g, relative
        to the norm of the output at k; the mean over the calibration set. NaN where step k - g does not exist.
    """
    import torch

    from l2c_ray.sampling.loop import noise_from_seeds, sample_images

    model = pipeline.model
    device = next(model.parameters()).device
    total = torch.zeros(pipeline.solver.steps, len(model.units), max_gap, device=device)
    labels, seeds = calibration_set(images, seed, model.num_classes)
    on_images(0, images)
    for start in range(0, images, _BATCH_SIZE):
        batch = slice(start, min(start + _BATCH_SIZE, images))
        noise = noise_from_seeds(seeds[batch], model.image_shape).to(device)
        recorder = _Recorder(total.shape, device)
        wanted = torch.tensor(labels[batch], device=device)
        sample_images(model, pipeline.solver, noise, wanted, pipeline.guidance, recorder)
        total += recorder.errors * len(seeds[batch])
        on_images(batch.stop, images)
    return (total / images).cpu()


class _Recorder:
    """Computes every unit of one trajectory and records how much its output changes."""

    def __init__(self, shape: torch.Size, device: torch.device) -> None:
        import torch

        self.errors = torch.full(shape, torch.nan, device=device)
        self._earlier: defaultdict[int, deque[Tensor]] = defaultdict(lambda: deque(maxlen=shape[2]))
        """Last outputs by unit, latest first."""

    def __call__(self, step: int) -> UnitHandler:
        def handle(unit: int, compute: Callable[[], Tensor]) -> Tensor:
            output = compute()
            for index, earlier in enumerate(self._earlier[unit]):
                self.errors[step, unit, index] = relative_change([earlier], [output])
            self._earlier[unit].appendleft(output)
            return output

        return handle


def _mean_of_kind(errors: Tensor, kinds: list[str]) -> Tensor:
    """Errors [steps, units, max_gap], each replaced by the mean over the units of its kind."""
    import torch

    means = torch.empty_like(errors)
    for kind in set(kinds):
        alike = [unit for unit, other in enumerate(kinds) if other == kind]
        means[:, alike] = errors[:, alike].mean(1, keepdim=True)
    return means


def reuse_below(errors: Tensor, alpha: float) -> Table:
    """The table for the result of `calibration_errors`, [steps, units, max_gap].

    After each computed step a unit is reused as long as its error to that step is below alpha, for at most `max_gap`
    steps.
    """
    columns = [_column(by_step, alpha) for by_step in errors.transpose(0, 1).tolist()]
    return Table.of(tuple(zip(*columns, strict=True)))


def _column(by_step: list[list[float]], alpha: float) -> list[int]:
    """One unit's mask (1 computes, 0 reuses) by step, from its errors [steps][max_gap]."""
    column = []
    computed_last = 0
    for step, by_gap in enumerate(by_step):
        gap = step - computed_last
        reused = 0 < gap <= len(by_gap) and by_gap[gap - 1] < alpha
        if not reused:
            computed_last = step
        column.append(int(not reused))
    return column
