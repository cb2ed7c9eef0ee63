"""Tensors in safetensors files: nothing in them can run."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from l2c_ray.errors import CheckpointError
from l2c_ray.storage import files


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Writes a safetensors file, whole or not at all."""
    content = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    return files.write_bytes(path, safetensors.torch.save(content))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: the file is missing, truncated or not safetensors.
    """
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(str(path), f"cannot be read ({error})", "give a whole safetensors file") from error
