"""Models by name: embedded ones ship in the package, any of them can take its weights from a folder or file."""

from functools import partial
from importlib.resources import files
from pathlib import Path

import torch

from l2c_ray.errors import ConfigError
from l2c_ray.models import dit, public_dit, uvit
from l2c_ray.models.base import CacheableTransformer, ZooEntry
from l2c_ray.schedule import Guidance, GuidanceRule

_EMBEDDED = Path(str(files("l2c_ray.models"))) / "embedded"


def load(name: str, checkpoint: Path | None = None, device: str = "cpu") -> CacheableTransformer:
    """The model `name`, frozen, in evaluation mode and float32.

    Args:
        checkpoint: a folder in diffusers' layout (transformer/, scheduler/) or a file of the model's authors; the
            embedded weights unless given.

    Raises:
        ConfigError: the zoo has no model of this name, or its weights do not ship in the package.
        CheckpointError: a file is missing, truncated, or holds other tensors than the model has; or the scheduler
            asks for another way of sampling than the solvers have.
    """
    entry = entry_of(name, "model.name")
    if checkpoint is None and not embedded(name).is_dir():
        raise ConfigError("model.checkpoint", f"the weights of {name} do not ship in the package", "give them")
    return entry.load(name, checkpoint or embedded(name)).float().requires_grad_(False).eval().to(device)


def skeleton(name: str) -> CacheableTransformer:
    """The model without weights, on torch's meta device: what its units and their cost are can be seen from it.

    Raises:
        ConfigError: the zoo has no model of this name.
    """
    with torch.device("meta"):
        return entry_of(name, "model.name").build(name).to("meta").requires_grad_(False).eval()


def with_random_weights(name: str, seed: int) -> CacheableTransformer:
    """The model untrained, for timing it.

    Raises:
        ConfigError: the zoo has no model of this name.
    """
    torch.manual_seed(seed)
    return entry_of(name, "model.name").build(name).requires_grad_(False).eval()


def entry_of(name: str, key: str) -> ZooEntry:
    """What the zoo knows of a name; `key` is where it was given.

    Raises:
        ConfigError: the zoo has no model of this name.
    """
    if name not in ENTRIES:
        raise ConfigError(key, f"there is no model {name!r}", f"take one of {', '.join(ENTRIES)}")
    return ENTRIES[name]


def guidance_of(name: str, key: str, scale: float | None, rule: GuidanceRule | None) -> Guidance:
    """The guidance of the model's authors, in so far as no other is given; `key` is where the name was given.

    Raises:
        ConfigError: the zoo has no model of this name.
    """
    own = entry_of(name, key).guidance
    return Guidance(scale=own.scale if scale is None else scale, rule=rule or own.rule)


def embedded(name: str) -> Path:
    """The folder of the weights that ship in the package."""
    return _EMBEDDED / name


_DIGITS_GUIDANCE = Guidance(scale=1.5)

ENTRIES: dict[str, ZooEntry] = {
    "digits-dit": ZooEntry(
        load=dit.load_folder,
        build=partial(dit.build_like, embedded("digits-dit")),
        sampler="ddim",
        guidance=_DIGITS_GUIDANCE,
    ),
    "digits-uvit": ZooEntry(
        load=uvit.load_folder,
        build=partial(uvit.build_like, embedded("digits-uvit")),
        sampler="dpm-solver-2",
        guidance=_DIGITS_GUIDANCE,
    ),
    **public_dit.entries(),
    **uvit.entries(),
}
