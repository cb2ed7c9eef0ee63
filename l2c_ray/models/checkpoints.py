"""Getting checkpoint files into models, with errors that name the tensor at fault."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from l2c_ray.errors import CheckpointError, StorageError
from l2c_ray.models.layout import CONFIG, WEIGHTS
from l2c_ray.storage.files import read_bytes
from l2c_ray.storage.tensors import flaw, opened_weights, read_tensors

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

_MOST_CONFIG_BYTES = 1 << 20
_MOST_TIMESTEPS = 100_000
_MOST_SIDE = 2048
"""Longest side of an image, in pixels or latents: models make a table of its positions that no file holds."""

_SCHEDULER = {
    "prediction_type": "epsilon",
    "clip_sample": False,
    "thresholding": False,
    "set_alpha_to_one": True,
    "rescale_betas_zero_snr": False,
}
"""Scheduler settings that the solvers rely on; a model with others would give wrong images."""


def digest(path: Path) -> str:
    """The file's sha256.

    Raises:
        CheckpointError: it cannot be read.
    """
    with opened_weights(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(str(path), f"cannot be read ({error.strerror})", "copy it anew") from error


def read_config(path: Path) -> dict[str, Any]:
    """The keys of a config.json.

    Raises:
        CheckpointError: it is missing, no ordinary file, or no JSON object as diffusers reads it too.
    """
    try:
        encoded = read_bytes(path, _MOST_CONFIG_BYTES)
    except StorageError as error:
        raise CheckpointError(error.subject, error.problem, error.remedy) from error
    if encoded.startswith(codecs.BOM_UTF8):
        # Diffusers reads the same file and takes none.
        raise CheckpointError(str(path), "begins with a byte order mark", "save it as UTF-8 without one")
    try:
        content = json.loads(encoded.decode())
    except (ValueError, RecursionError) as error:
        raise unloadable(path, error) from error
    if not isinstance(content, dict):
        raise CheckpointError(str(path), "is no JSON object", "give a whole model of this family")
    return content


def read_scheduler(folder: Path) -> DDIMScheduler:
    """The noise schedule in a folder of diffusers' layout.

    Raises:
        CheckpointError: it is missing or broken, or asks for another way of sampling than the solvers have.
    """
    from diffusers import DDIMScheduler

    path = folder / "scheduler" / "scheduler_config.json"
    config = read_config(path)
    steps = config.get("num_train_timesteps")
    if isinstance(steps, int) and steps > _MOST_TIMESTEPS:
        raise _oversized("num_train_timesteps", path, steps, _MOST_TIMESTEPS)
    try:
        # Whatever device a model is built on, solvers read the noise schedule.
        with torch.device("cpu"):
            # `from_pretrained` imports every other scheduler, and SciPy, to know which keys of theirs to leave out.
            known = signature(DDIMScheduler).parameters
            scheduler = DDIMScheduler(**{key: value for key, value in config.items() if key in known})
    except Exception as error:
        # Diffusers lets whatever a broken config leads to through.
        raise unloadable(path, error) from error
    for key, wanted in _SCHEDULER.items():
        if scheduler.config[key] != wanted:
            raise CheckpointError(
                str(folder / "scheduler"), f"{key} is {scheduler.config[key]}", f"give a model with {key} {wanted}"
            )
    return scheduler


def read_module(kind: Any, folder: Path) -> Any:
    """The diffusers model of class `kind` in a folder of its own, config.json beside one file of weights.

    Raises:
        CheckpointError: a file is missing, truncated, or holds other tensors than the model has.
    """
    for index in folder.glob("*.index.json"):
        # Diffusers would read the files that it names, whatever they are.
        raise CheckpointError(str(index), "names weights in several files", f"give them all in {WEIGHTS.name}")
    tensors = read_tensors(folder / WEIGHTS.name)
    # Diffusers would make whole numbers of a file floating-point ones, and leave out half of complex ones.
    require_weights(tensors, folder / WEIGHTS.name)
    require_sizes(folder / CONFIG.name, tensors)
    try:
        module, report = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except Exception as error:
        # Diffusers lets whatever a broken config leads to through: TypeError, ZeroDivisionError and the like.
        raise unloadable(folder, error) from error
    for problem in ("missing_keys", "unexpected_keys"):
        if report[problem]:
            tensor = sorted(report[problem])[0]
            raise CheckpointError(
                str(folder), f"{problem.replace('_', ' ')}: {tensor}", "give the weights that belong to its config.json"
            )
    return module


def require_sizes(config: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuses a config whose model would be far larger than the tensors beside it, before that is built.

    Raises:
        CheckpointError: it is no config, or names the first size that is too large.
    """
    layers = dict.fromkeys(("num_layers", "depth", "layers_per_block"), len(tensors))
    sides = dict.fromkeys(("sample_size", "image_size"), _MOST_SIDE)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    for key, value in read_config(config).items():
        most = (layers | sides).get(key, numbers)
        for size in value if isinstance(value, list) else [value]:
            if isinstance(size, int) and size > most:
                raise _oversized(key, config, size, most)


def _oversized(key: str, config: Path, size: int, most: int) -> CheckpointError:
    problem = f"is {size}, more than the {most} that a model of these weights can have"
    return CheckpointError(f"{key} in {config}", problem, "give a whole model of this family")


def unloadable(place: Path, error: Exception) -> CheckpointError:
    """The error of a folder or file of which something else than its tensors is broken."""
    reason = " ".join(str(error).split("\n")[:2]) or type(error).__name__
    return CheckpointError(str(place), f"cannot be loaded ({reason})", "give a whole model of this family")


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Makes `tensors` the module's own, without a copy.

    Raises:
        CheckpointError: as `require_tensors`.
    """
    require_tensors({name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}, tensors, source)
    module.load_state_dict(dict(tensors), assign=True)


def require_tensors(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], source: Path) -> None:
    """Refuses tensors that are not those of `shapes`; `source` is the file that they are from.

    Raises:
        CheckpointError: names the first tensor that is missing, unknown, of another shape, or no weights.
    """
    for name, shape in shapes.items():
        if name not in tensors:
            raise _misfit(name, source, "is missing")
        if problem := flaw(tensors[name], shape):
            raise _misfit(name, source, problem)
    for name in tensors:
        if name not in shapes:
            raise _misfit(name, source, "is no tensor of this model")


def require_weights(tensors: Mapping[str, Tensor], source: Path) -> None:
    """Refuses tensors that are no weights.

    Raises:
        CheckpointError: names the first one of another kind or layout, or with a number that is not finite.
    """
    for name, tensor in tensors.items():
        if problem := flaw(tensor):
            raise _misfit(name, source, problem)


def _misfit(tensor: str, source: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{tensor} in {source}", problem, "give trained weights of this family and size")
