"""Inputs of commands: models, samplers, weights and schedules by name, checked before torch is imported if possible."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from l2c_ray.cli.options import Device, NumberFormat
from l2c_ray.config.learn import ModelSection, SamplerSection
from l2c_ray.errors import InvalidInputError, StorageError
from l2c_ray.models import zoo
from l2c_ray.models.labels import require_label
from l2c_ray.sampling import solvers
from l2c_ray.schedule import MOST_GUIDANCE, Guidance, GuidanceRule, Schedule
from l2c_ray.storage.files import read_text

if TYPE_CHECKING:
    from l2c_ray.caching.pipeline import Pipeline
    from l2c_ray.models.base import CacheableTransformer

_SEED = 0
"""Seed of random weights."""


@dataclass(frozen=True)
class Weights:
    """Source of a model's weights, and the device and number format to load them in."""

    random: bool
    checkpoint: Path | None
    device: Device
    dtype: NumberFormat

    def require_possible(self, name: str) -> None:
        """Raises InvalidInputError if the model, its weights or the device is not there."""
        if self.random and self.checkpoint:
            raise InvalidInputError("--checkpoint", "is given beside --random-weights", "give one of them")
        if self.random:
            zoo.entry_of(name, "model.name")
        else:
            zoo.require(name, self.checkpoint)
        if self.device == "cuda":
            import torch

            if not torch.cuda.is_available():
                raise InvalidInputError("--device", "torch finds no CUDA GPU on this machine", "take cpu")

    def load(self, name: str) -> CacheableTransformer:
        import torch

        model = zoo.with_random_weights(name, _SEED) if self.random else zoo.load(name, self.checkpoint)
        return model.to(device=self.device, dtype=getattr(torch, self.dtype))


def require_pipeline(model: ModelSection, sampler: SamplerSection) -> None:
    """Refuses what a config names if there is no such model, checkpoint or sampler.

    Raises:
        ConfigError, CheckpointError: names the key or the file.
    """
    zoo.require(model.name, Path(model.checkpoint) if model.checkpoint else None)
    solvers.require(sampler.name, sampler.steps)


def require_there(key: str, place: str | None) -> None:
    """Refuses a file or folder that a config names under `key` and that is not there.

    Raises:
        StorageError: names it.
    """
    if place and "://" not in place:
        try:
            Path(place).stat()
        except OSError as error:
            raise StorageError(place, f"cannot be read ({error.strerror})", f"correct {key}") from error


def require_known_label(model: str, checkpoint: Path | None, label: int) -> None:
    """Refuses a class that the model has not, if its number of classes is known before it is loaded.

    Raises:
        InvalidInputError: it has no such class, or there is no such model.
    """
    classes = zoo.num_classes_of(model, "MODEL", checkpoint)
    if classes is not None:
        require_label(label, classes, model, key="--label")


def open_pipeline(
    model: str,
    checkpoint: Path | None,
    sampler: str | None,
    steps: int,
    guidance_scale: float | None,
    guidance_rule: GuidanceRule | None,
) -> Pipeline:
    """The model's pipeline; sampler and guidance are those of the model's authors unless given."""
    guidance = guidance_of(model, "MODEL", guidance_scale, guidance_rule)
    entry = zoo.require(model, checkpoint)
    sampler = sampler or entry.sampler
    solvers.require(sampler, steps)

    from l2c_ray.caching.pipeline import Pipeline

    return Pipeline.load(model, checkpoint, sampler=sampler, steps=steps, guidance=guidance)


def guidance_of(model: str, key: str, scale: float | None, rule: GuidanceRule | None) -> Guidance:
    """The guidance of the model's authors, in so far as no other is given; `key` is where the model was named."""
    if scale is not None and not 0 <= scale <= MOST_GUIDANCE:
        problem, remedy = f"{scale} is out of range", f"take a number from 0 to {MOST_GUIDANCE:g}"
        raise InvalidInputError("--guidance-scale", problem, remedy)
    return zoo.guidance_of(model, key, scale, rule)


def find_schedule(given: str, pipeline: Pipeline) -> Schedule:
    """The schedule in the file `given`, or the registered one that has the alias `given`, made for this pipeline."""
    from l2c_ray.evaluation.cost import require_fit

    schedule = read_schedule(given)
    if schedule is None:
        from l2c_ray.registry import tracking
        from l2c_ray.registry.versions import load_schedule, model_name, resolve

        name = model_name(pipeline.model.identity(), pipeline.solver.name, pipeline.solver.steps)
        schedule = load_schedule(resolve(tracking.connect(), name, given))
    require_fit(schedule, pipeline)
    return schedule


def read_schedule(given: str) -> Schedule | None:
    """The schedule in the file `given`; None for an alias, which is looked up for a pipeline."""
    return Schedule.from_json(read_text(Path(given)), source=given) if _names_a_file(given) else None


def _names_a_file(given: str) -> bool:
    if "/" in given or given.endswith(".json"):
        return True
    try:
        return Path(given).is_file()
    except OSError:
        # Too long for the name of a file.
        return False
