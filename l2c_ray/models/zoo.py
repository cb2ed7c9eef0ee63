"""Models by name: embedded ones ship in the package, any of them can take its weights from a folder or file.

Names can be looked up without torch, and a model loads what its own family needs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from l2c_ray.errors import CheckpointError, ConfigError
from l2c_ray.schedule import Guidance, GuidanceRule

if TYPE_CHECKING:
    from l2c_ray.models.base import CacheableTransformer

_EMBEDDED = Path(__file__).with_name("embedded")


@dataclass(frozen=True)
class ZooEntry:
    """Constructors and defaults of a named model."""

    load: Callable[[str, Path], CacheableTransformer]
    """Loads a checkpoint: (name, path) -> model."""
    build: Callable[[str], CacheableTransformer]
    """Builds the model with random weights on torch's default device."""
    sampler: str
    """Solver that its authors use, with `guidance`."""
    guidance: Guidance
    num_classes: int
    """Number of classes of its own weights; see `num_classes_of`."""


def load(name: str, checkpoint: Path | None = None, device: str = "cpu") -> CacheableTransformer:
    """The model `name`, frozen, in evaluation mode and float32.

    Args:
        checkpoint: a folder in diffusers' layout (transformer/, scheduler/) or a file of the model's authors; the
            embedded weights unless given.

    Raises:
        ConfigError: the zoo has no model of this name, or its weights do not ship in the package.
        CheckpointError: a file is missing, truncated, or holds other tensors than the model has; or the scheduler
            asks for another way of sampling than the solvers have.

    >>> import l2c_ray
    >>> [unit.name for unit in l2c_ray.load_model("digits-dit").units[:2]]
    ['blocks.0.attention', 'blocks.0.mlp']
    """
    entry = _with_weights(name, checkpoint)
    return entry.load(name, checkpoint or embedded(name)).float().requires_grad_(False).eval().to(device)


def skeleton(name: str) -> CacheableTransformer:
    """The model without weights, on torch's meta device, for its units and their cost.

    Raises:
        ConfigError: the zoo has no model of this name.
    """
    import torch

    with torch.device("meta"):
        return entry_of(name, "model.name").build(name).to("meta").requires_grad_(False).eval()


def with_random_weights(name: str, seed: int) -> CacheableTransformer:
    """The model untrained, for timing it.

    Raises:
        ConfigError: the zoo has no model of this name.
    """
    import torch

    torch.manual_seed(seed)
    return entry_of(name, "model.name").build(name).requires_grad_(False).eval()


def require(name: str, checkpoint: Path | None) -> ZooEntry:
    """The zoo's entry of a model, if there is something to `load` it from.

    Raises:
        ConfigError: the zoo has no model of this name, or its weights do not ship in the package.
        CheckpointError: the checkpoint is not there.
    """
    entry = _with_weights(name, checkpoint)
    if checkpoint:
        try:
            checkpoint.stat()
        except OSError as error:
            remedy = "give what the model is published as: a weights file, or a folder in diffusers' layout"
            raise CheckpointError(str(checkpoint), f"cannot be read ({error.strerror})", remedy) from error
    return entry


def entry_of(name: str, key: str) -> ZooEntry:
    """The zoo's entry of a name; `key` is where it was given.

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


def num_classes_of(name: str, key: str, checkpoint: Path | None) -> int | None:
    """The number of classes that the model knows; None where only its checkpoint tells.

    Raises:
        ConfigError: the zoo has no model of this name.
    """
    entry = entry_of(name, key)
    # A folder in place of embedded weights may have another size; published models have one size.
    return None if checkpoint and embedded(name).is_dir() else entry.num_classes


def embedded(name: str) -> Path:
    """The folder of the weights that ship in the package."""
    return _EMBEDDED / name


def _with_weights(name: str, checkpoint: Path | None) -> ZooEntry:
    entry = entry_of(name, "model.name")
    if checkpoint is None and not embedded(name).is_dir():
        raise ConfigError("model.checkpoint", f"the weights of {name} do not ship in the package", "give them")
    return entry


def _load_dit(name: str, folder: Path) -> CacheableTransformer:
    from l2c_ray.models import dit

    return dit.load_folder(name, folder)


def _build_dit(name: str) -> CacheableTransformer:
    from l2c_ray.models import dit

    return dit.build_like(embedded(name), name)


def _load_public_dit(name: str, path: Path) -> CacheableTransformer:
    from l2c_ray.models import public_dit

    return public_dit.load_as(public_dit.shape_of(name), name, path)


def _build_public_dit(name: str) -> CacheableTransformer:
    from l2c_ray.models import public_dit

    return public_dit.build(public_dit.shape_of(name), name)


def _load_uvit(name: str, folder: Path) -> CacheableTransformer:
    from l2c_ray.models import uvit

    return uvit.load_folder(name, folder)


def _build_uvit(name: str) -> CacheableTransformer:
    from l2c_ray.models import uvit

    return uvit.build_like(embedded(name), name)


def _load_public_uvit(name: str, path: Path) -> CacheableTransformer:
    from l2c_ray.models import uvit

    return uvit.load_public(uvit.public_shape(name), name, path)


def _build_public_uvit(name: str) -> CacheableTransformer:
    from l2c_ray.models import uvit

    return uvit.build(uvit.public_shape(name), name)


_DIGITS_GUIDANCE = Guidance(scale=1.5)
# Guidance of the papers' ImageNet tables.
_PUBLIC_DIT = ZooEntry(_load_public_dit, _build_public_dit, "ddim", Guidance(scale=1.5, rule="first-three"), 1000)
_PUBLIC_UVIT = ZooEntry(_load_public_uvit, _build_public_uvit, "dpm-solver-2", Guidance(scale=0.4, rule="beyond"), 1000)

# Of the authors' models: size, patch size, pixels of an image.
_PUBLIC_DITS = [
    f"dit-{size}-{patch}-{side}" for size in ("s", "b", "l", "xl") for patch in (2, 4, 8) for side in (256, 512)
]
_PUBLIC_UVITS = [f"uvit-{size}-2-256" for size in ("s", "m", "l", "h")]

ENTRIES: dict[str, ZooEntry] = {
    "digits-dit": ZooEntry(_load_dit, _build_dit, "ddim", _DIGITS_GUIDANCE, 10),
    "digits-uvit": ZooEntry(_load_uvit, _build_uvit, "dpm-solver-2", _DIGITS_GUIDANCE, 10),
    **dict.fromkeys(_PUBLIC_DITS, _PUBLIC_DIT),
    **dict.fromkeys(_PUBLIC_UVITS, _PUBLIC_UVIT),
}
