"""Getting checkpoint files into models, with errors that name the tensor at fault."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from l2c_ray.errors import CheckpointError
from l2c_ray.models.layout import WEIGHTS
from l2c_ray.storage.pickled import read_pickled
from l2c_ray.storage.tensors import read_tensors

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

_SCHEDULER = {
    "prediction_type": "epsilon",
    "clip_sample": False,
    "thresholding": False,
    "set_alpha_to_one": True,
    "rescale_betas_zero_snr": False,
}
"""What the solvers rely on; a model that was trained or is meant to be sampled otherwise would give wrong images."""


def digest(path: Path) -> str:
    """The file's sha256.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            str(path),
            f"cannot be read ({error.strerror})",
            "give what the model is published as: a weights file, or a folder in diffusers' layout",
        ) from error


def read_public(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint as authors publish it: safetensors, or a pickle that is not run.

    Raises:
        CheckpointError: it is no such file.
    """
    content = read_tensors(path) if path.suffix == ".safetensors" else read_pickled(path)
    # Training checkpoints keep the averaged weights beside the raw ones.
    if isinstance(content, dict) and isinstance(content.get("ema"), dict):
        content = content["ema"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(str(path), "holds no dictionary of tensors", "give the model's weights")
    return content


def read_scheduler(folder: Path) -> DDIMScheduler:
    """The noise schedule in a folder of diffusers' layout.

    Raises:
        CheckpointError: it is missing or broken, or asks for another way of sampling than the solvers have.
    """
    from diffusers import DDIMScheduler

    try:
        # Whatever device a model is built on, solvers read the noise schedule.
        with torch.device("cpu"):
            config = DDIMScheduler.load_config(folder, subfolder="scheduler", local_files_only=True)
            # `from_pretrained` imports every other scheduler, and SciPy, to know which keys of theirs to leave out.
            known = signature(DDIMScheduler).parameters
            scheduler = DDIMScheduler(**{key: value for key, value in config.items() if key in known})
    except Exception as error:
        # Diffusers lets whatever a broken config leads to through.
        raise unloadable(folder / "scheduler" / DDIMScheduler.config_name, error) from error
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


def unloadable(folder: Path, error: Exception) -> CheckpointError:
    """The error of a folder of which something else than its tensors is broken."""
    reason = " ".join(str(error).split("\n")[:2]) or type(error).__name__
    return CheckpointError(str(folder), f"cannot be loaded ({reason})", "give a whole model of this family")


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
        CheckpointError: names the first tensor that is missing, unknown or of another shape.
    """
    for name, shape in shapes.items():
        if name not in tensors:
            raise _misfit(name, source, "is missing")
        if tensors[name].shape != shape:
            raise _misfit(name, source, f"has shape {list(tensors[name].shape)}, not {list(shape)}")
    for name in tensors:
        if name not in shapes:
            raise _misfit(name, source, "is no tensor of this model")


def _misfit(tensor: str, source: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{tensor} in {source}", problem, "give weights of this family and size")
