"""Tensors in safetensors files, which cannot run anything, and the check that a tensor can be weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from l2c_ray.errors import CheckpointError, StorageError
from l2c_ray.storage import files

_LENGTH_BYTES = 8
"""Size of the header's length, with which a safetensors file begins."""
_WEIGHTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Writes a safetensors file, whole or not at all."""
    return files.write_bytes(path, serialize_tensors(tensors))


def serialize_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Content of a safetensors file with the tensors."""
    return safetensors.torch.save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: the file is missing, truncated or not safetensors.
    """
    with opened_weights(path) as file, _typed_errors(str(path)):
        _require_short_header(file.read(_LENGTH_BYTES))
        return safetensors.torch.load_file(path)


def parse_tensors(content: bytes, source: str) -> dict[str, Tensor]:
    """The tensors in the content of a safetensors file; `source` is named in errors, as by `read_tensors`."""
    with _typed_errors(source):
        _require_short_header(content[:_LENGTH_BYTES])
        return safetensors.torch.load(content)


@contextmanager
def opened_weights(path: Path) -> Iterator[BufferedReader]:
    """The file, open for reading as by `files.opened`.

    Raises:
        CheckpointError: it is missing, unreadable, or not a regular file.
    """
    try:
        with files.opened(path) as file:
            yield file
    except StorageError as error:
        raise CheckpointError(error.subject, error.problem, error.remedy) from error


def flaw(value: object, shape: tuple[int, ...] | None = None) -> str | None:
    """Reason why a value is not a tensor of weights of this shape (any if None); None if it is one."""
    if not isinstance(value, Tensor):
        return "is no tensor"
    if value.dtype not in _WEIGHTS:
        return f"holds {_name_of(value.dtype)}, not floating-point numbers of 16, 32 or 64 bits"
    if value.layout is not torch.strided:
        return f"is a {_name_of(value.layout)} tensor, not a plain (strided) one"
    if value.device.type != "cpu":
        return f"is on the device {value.device.type}, so that the file has none of its numbers"
    if shape is not None and value.shape != shape:
        return f"has shape {list(value.shape)}, not {list(shape)}"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return "claims more numbers than the file has"
    if not value.isfinite().all():
        return "has a number that is not finite"
    return None


def _name_of(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")


def _require_short_header(length: bytes) -> None:
    if int.from_bytes(length, "little") > files.MOST_TEXT_BYTES:
        raise ValueError("its header is too long")


@contextmanager
def _typed_errors(source: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Unknown shapes and dtypes in a header make torch raise almost anything.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(source, f"cannot be read ({reason})", "give a whole safetensors file") from error
