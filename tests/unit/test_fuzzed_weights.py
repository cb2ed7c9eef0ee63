"""Weights, routers and archives that somebody has damaged: each is refused in one line, or read as what it is."""

import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from mutations import fuzzed, mutated
from safetensors.torch import save
from tiny_models import tiny_dit
from torch import Tensor
from unit_factories import model_identity

from l2c_ray.errors import InvalidInputError
from l2c_ray.interop import l2c_router, smoothcache
from l2c_ray.models.published import read_public
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.storage.archives import Archive
from l2c_ray.storage.tensors import parse_tensors, read_tensors

MODEL = tiny_dit()
SOLVER = make_solver("ddim", 4, MODEL)
IDENTITY = model_identity()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed") / "file"


def torch_file(content: Any, *, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def npz(save_as: Callable[..., None]) -> bytes:
    buffer = io.BytesIO()
    save_as(buffer, a=np.arange(12.0).reshape(4, 3), b=np.ones((2, 2), np.uint8))
    return buffer.getvalue()


def read(reader: Callable[[Path], object], path: Path, content: bytes) -> None:
    path.write_bytes(content)
    # Anything but one typed line fails the test.
    with suppress(InvalidInputError):
        reader(path)


WEIGHTS = {"ema": {"a": torch.ones(2, 3), "b": torch.ones(2).half()}, "best": np.float64(3), "folder": Path("/a/b")}
ROUTER = {"routers": {f"{row}.prob": torch.ones(4) for row in range(4)}, "args": {"lr": 1e-3}}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@fuzzed
@given(content=mutated(torch_file(WEIGHTS, zipped=True)))
def test_damaged_checkpoint_is_refused_or_read(path: Path, content: bytes) -> None:
    read(read_public, path, content)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@fuzzed
@given(content=mutated(torch_file(WEIGHTS, zipped=False)))
def test_damaged_legacy_checkpoint_is_refused_or_read(path: Path, content: bytes) -> None:
    read(read_public, path, content)


def read_router(path: Path) -> object:
    return l2c_router.read_table(path, MODEL, SOLVER, 0.5)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@fuzzed
@given(content=mutated(torch_file(ROUTER, zipped=True)))
def test_damaged_router_is_refused_or_read(path: Path, content: bytes) -> None:
    read(read_router, path, content)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@fuzzed
@given(content=mutated(torch_file(ROUTER, zipped=False)))
def test_damaged_legacy_router_is_refused_or_read(path: Path, content: bytes) -> None:
    read(read_router, path, content)


def agreeing(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which are those of its content in memory."""
    tensors = read_tensors(path)
    assert tensors.keys() == parse_tensors(content, "memory").keys()
    return tensors


@fuzzed
@given(content=mutated(save({"a": torch.ones(2, 3), "b": torch.ones(2).half()})))
def test_damaged_safetensors_are_refused_or_read(path: Path, content: bytes) -> None:
    read(lambda path: agreeing(content, path), path, content)


def read_arrays(path: Path) -> None:
    archive = Archive(path, str(path))
    for name in archive.names:
        assert min(archive.array(name).shape) > 0


@fuzzed
@given(content=mutated(npz(np.savez)))
def test_damaged_archive_is_refused_or_read(path: Path, content: bytes) -> None:
    read(read_arrays, path, content)


@fuzzed
@given(content=mutated(npz(np.savez_compressed)))
def test_damaged_compressed_archive_is_refused_or_read(path: Path, content: bytes) -> None:
    read(read_arrays, path, content)


@fuzzed
@given(content=mutated(json.dumps({"attn": [1, 0, 1], "mlp": [1, 1, 1]}).encode()))
def test_damaged_smoothcache_file_is_refused_or_read(path: Path, content: bytes) -> None:
    read(lambda path: smoothcache.read_table(path, IDENTITY, 3), path, content)
