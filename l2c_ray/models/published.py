"""The tensors of a checkpoint as authors publish it, out of whatever their training script wrapped them in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from l2c_ray.errors import CheckpointError
from l2c_ray.storage.pickled import read_pickled
from l2c_ray.storage.tensors import read_tensors

_KEYS = ("ema", "model_ema", "ema_state_dict", "model", "model_state_dict", "state_dict")
"""Keys that tensors are nested under, the preferred first: authors sample with averaged weights."""
_MOST_NESTINGS = 8

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts that torch puts into names of tensors, anywhere, for compiled, sharded or recomputed modules."""
_PARALLEL = "module."
"""Prefix of all names of a model that ran on several devices or was averaged."""
_COUNT = "n_averaged"
"""Counter that `torch.optim.swa_utils` keeps beside averaged weights."""


def read_public(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a pickle that is not run, under the model's own names.

    Where a file nests them, the dictionary under the first of `ema`, `model_ema`, `ema_state_dict`, `model`,
    `model_state_dict`, `state_dict` is taken, or the only one there is; numbers and texts beside them are left out.

    Raises:
        CheckpointError: it is no such file, or leaves open which tensors are the model's.
    """
    content = read_tensors(path) if path.suffix == ".safetensors" else read_pickled(path)
    return _named(_innermost(content, path), path)


def _innermost(content: Any, path: Path) -> dict[str, Tensor]:
    nesting: list[str] = []
    while isinstance(content, dict) and (key := _way_in(content, nesting, path)) is not None:
        nesting.append(key)
        content = content[key]
    found = content if isinstance(content, dict) else {}
    tensors = {str(name): value for name, value in found.items() if _is_named(name, value)}
    if not tensors:
        raise _unclear(path, nesting, "holds no dictionary of tensors by name")
    return tensors


def _is_named(name: object, value: object) -> bool:
    return isinstance(value, Tensor) and isinstance(name, str | int)


def _way_in(content: Mapping[Any, Any], nesting: list[str], path: Path) -> str | None:
    """The key of the dictionary to look into; None if the tensors are here."""
    inner = [key for key, value in content.items() if isinstance(value, dict) and value and isinstance(key, str)]
    if len(nesting) == _MOST_NESTINGS:
        raise _unclear(path, nesting, "nests dictionaries without an end")
    for key in _KEYS:
        if key in inner:
            return key
    if not inner or any(isinstance(value, Tensor) for value in content.values()):
        return None
    if len(inner) > 1:
        keys = ", ".join(inner)
        raise _unclear(path, nesting, f"holds a dictionary under each of {keys}, and none of {', '.join(_KEYS)}")
    return inner[0]


def _named(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors without what torch's wrappers put into their names."""
    names = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in tensors}
    while {own.startswith(_PARALLEL) for own in names.values() if own != _COUNT} == {True}:
        names = {name: own.removeprefix(_PARALLEL) for name, own in names.items() if own != _COUNT}
    owners: dict[str, str] = {}
    for name, own in names.items():
        if owners.setdefault(own, name) != name:
            problem = f"is there as {owners[own]} too"
            raise CheckpointError(f"{name} in {path}", problem, "keep the one that is meant")
    return {own: tensors[name] for name, own in names.items()}


def _unclear(path: Path, nesting: list[str], problem: str) -> CheckpointError:
    place = f"under {' > '.join(nesting)} " if nesting else ""
    return CheckpointError(str(path), place + problem, "save the dictionary of the model's tensors alone")
