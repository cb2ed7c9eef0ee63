"""From what a user typed to the things it names."""

from dataclasses import dataclass
from pathlib import Path

import torch

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.cli.options import Device, NumberFormat
from l2c_ray.errors import InvalidInputError
from l2c_ray.evaluation.cost import require_fit
from l2c_ray.models import zoo
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.registry import tracking
from l2c_ray.registry.versions import load_schedule, model_name, resolve
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import MOST_GUIDANCE, Guidance, GuidanceRule, Schedule
from l2c_ray.storage.files import read_text

_SEED = 0
"""Of random weights."""


@dataclass(frozen=True)
class Weights:
    """Where the weights come from and where they go."""

    random: bool
    checkpoint: Path | None
    device: Device
    dtype: NumberFormat

    def require_possible(self) -> None:
        """Raises InvalidInputError if there are no such weights or no such device."""
        if self.random and self.checkpoint:
            raise InvalidInputError("--checkpoint", "is given beside --random-weights", "give one of them")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InvalidInputError("--device", "torch finds no CUDA GPU on this machine", "take cpu")

    def load(self, name: str) -> CacheableTransformer:
        model = zoo.with_random_weights(name, _SEED) if self.random else zoo.load(name, self.checkpoint)
        return model.to(device=self.device, dtype=getattr(torch, self.dtype))


def open_pipeline(
    model: str,
    checkpoint: Path | None,
    sampler: str | None,
    steps: int,
    guidance_scale: float | None,
    guidance_rule: GuidanceRule | None,
) -> Pipeline:
    """The model with the sampler that it is run by; what is not given is that of the model's authors."""
    guidance = guidance_of(model, "MODEL", guidance_scale, guidance_rule)
    loaded = zoo.load(model, checkpoint)
    return Pipeline(loaded, make_solver(sampler or zoo.entry_of(model, "MODEL").sampler, steps, loaded), guidance)


def guidance_of(model: str, key: str, scale: float | None, rule: GuidanceRule | None) -> Guidance:
    """The guidance of the model's authors, in so far as no other is given; `key` is where the model was named."""
    if scale is not None and not 0 <= scale <= MOST_GUIDANCE:
        problem, remedy = f"{scale} is out of range", f"take a number from 0 to {MOST_GUIDANCE:g}"
        raise InvalidInputError("--guidance-scale", problem, remedy)
    return zoo.guidance_of(model, key, scale, rule)


def find_schedule(given: str, pipeline: Pipeline) -> Schedule:
    """The schedule in the file `given`, or the registered one that has the alias `given`, made for this pipeline."""
    if _names_a_file(given):
        schedule = Schedule.from_json(read_text(Path(given)), source=given)
    else:
        name = model_name(pipeline.model.identity(), pipeline.solver.name, pipeline.solver.steps)
        schedule = load_schedule(resolve(tracking.connect(), name, given))
    require_fit(schedule, pipeline)
    return schedule


def _names_a_file(given: str) -> bool:
    if "/" in given or given.endswith(".json"):
        return True
    try:
        return Path(given).is_file()
    except OSError:
        # Too long for the name of a file.
        return False
