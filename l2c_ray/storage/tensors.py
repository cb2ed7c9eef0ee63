"""Tensors in safetensors files: nothing in them can run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from l2c_ray.errors import CheckpointError
from l2c_ray.storage import files


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Writes a safetensors file, whole or not at all."""
    return files.write_bytes(path, serialize_tensors(tensors))


def serialize_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """What a safetensors file of them holds."""
    return safetensors.torch.save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: the file is missing, truncated or not safetensors.
    """
    with _typed_errors(str(path)):
        return safetensors.torch.load_file(path)


def parse_tensors(content: bytes, source: str) -> dict[str, Tensor]:
    """As `read_tensors`, of a file's content; `source` is named in errors."""
    with _typed_errors(source):
        return safetensors.torch.load(content)


@contextmanager
def _typed_errors(source: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(source, f"cannot be read ({error})", "give a whole safetensors file") from error
