"""Weights as training scripts save them: nested, renamed, beside other values, or of a kind that is no weights."""

from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import UVIT_SHAPE, save_tiny_autoencoder, tiny_dit, tiny_uvit
from torch import Tensor, nn

from l2c_ray.errors import CheckpointError
from l2c_ray.models import dit, uvit
from l2c_ray.models.checkpoints import WEIGHTS
from l2c_ray.models.uvit import UViT
from l2c_ray.models.vae import LatentDecoder

WEIGHT = "in_blocks.0.attn.qkv.weight"


class Whole(nn.Module):
    """Names its tensors as torch's wrappers of a model do."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


@pytest.fixture
def model() -> UViT:
    return tiny_uvit()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def loaded(content: Any, path: Path) -> dict[str, Tensor]:
    torch.save(content, path)
    return uvit.load_public(UVIT_SHAPE, "tiny", path).state_dict()


def refusal(content: Any, path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        loaded(content, path)
    assert str(path) in caught.value.subject
    return str(caught.value)


def zeros(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}


NESTINGS: dict[str, Callable[[UViT], Any]] = {
    "bare": lambda model: model.state_dict(),
    "model": lambda model: {"model": model.state_dict(), "optimizer": {"state": {}}},
    "state_dict": lambda model: {"state_dict": model.state_dict(), "epoch": 3, "hyper_parameters": {"a": [1]}},
    "ema before model": lambda model: {"model": zeros(model), "ema": model.state_dict(), "opt": zeros(model)},
    "ema within model": lambda model: {"model": {"ema": model.state_dict(), "raw": zeros(model)}},
    "model within state_dict": lambda model: {"state_dict": {"model": model.state_dict()}},
    "no averaged weights yet": lambda model: {"ema": {}, "model": model.state_dict()},
    "the only dictionary": lambda model: {"net": model.state_dict(), "step": 3, "loss": torch.ones(()).item()},
    "numpy and paths beside": lambda model: {
        "ema": model.state_dict(),
        "best": np.float64(3.5),
        "steps": np.int64(7),
        "losses": np.ones(3, np.float32),
        "folder": Path("/data/runs"),
    },
    "numbers among them": lambda model: {**model.state_dict(), "epoch": 3, "best": np.float32(1), "note": "text"},
    "DataParallel": lambda model: Whole(module=model).state_dict(),
    "compiled": lambda model: torch.compile(model).state_dict(),
    "compiled blocks": lambda model: {
        name.replace("in_blocks.0.", "in_blocks.0._orig_mod."): tensor for name, tensor in model.state_dict().items()
    },
    "compiled DataParallel": lambda model: {"model": Whole(_orig_mod=Whole(module=model)).state_dict()},
    "DataParallel of compiled": lambda model: {"ema": Whole(module=Whole(_orig_mod=model)).state_dict()},
    "averaged by torch": lambda model: torch.optim.swa_utils.AveragedModel(model).state_dict(),
    "a scheduler's Counter, and plain values of Python, beside": lambda model: {
        "model": model.state_dict(),
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(torch.optim.AdamW(model.parameters()), [2, 4]).state_dict(),
        "args": Namespace(lr=1e-3),
        "values": [{1, 2}, 1j, bytearray(b"abc"), tuple(range(5000))],
    },
    "ordered and parameters": lambda model: {"ema": OrderedDict(model.named_parameters())},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("nested", NESTINGS.values(), ids=NESTINGS)
def test_wrapped_weights_are_those_of_the_model(
    model: UViT, path: Path, nested: Callable[[UViT], Any], zipped: bool
) -> None:
    torch.save(nested(model), path, _use_new_zipfile_serialization=zipped)
    found = uvit.load_public(UVIT_SHAPE, "tiny", path).state_dict()
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_wrapped_names_are_known_in_safetensors_too(model: UViT, path: Path) -> None:
    save_file({f"_orig_mod.module.{name}": tensor for name, tensor in model.state_dict().items()}, path)
    safe = path.rename(path.with_suffix(".safetensors"))
    assert torch.equal(uvit.load_public(UVIT_SHAPE, "tiny", safe).state_dict()[WEIGHT], model.state_dict()[WEIGHT])


def test_two_candidates_are_refused_naming_the_keys_and_the_way_out(model: UViT, path: Path) -> None:
    message = refusal({"generator": model.state_dict(), "critic": zeros(model)}, path)
    assert "under each of generator, critic" in message
    assert "save the dictionary of the model's tensors alone" in message
    nested = refusal({"state_dict": {"a": model.state_dict(), "b": zeros(model)}}, path)
    assert "under state_dict holds a dictionary under each of a, b" in nested


def test_averages_without_names_are_refused_naming_the_nesting(model: UViT, path: Path) -> None:
    shadow = {"decay": 0.99, "shadow_params": list(model.parameters())}
    assert "under ema holds no dictionary of tensors by name" in refusal({"ema": shadow, "model": zeros(model)}, path)


def test_dictionary_within_itself_is_refused(path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["model"] = endless
    assert "under model > model" in refusal(endless, path)


def test_tensor_that_is_there_under_two_names_is_refused(model: UViT, path: Path) -> None:
    tensors = model.state_dict()
    message = refusal(tensors | {f"_orig_mod.{WEIGHT}": tensors[WEIGHT]}, path)
    assert f"is there as {WEIGHT} too" in message


@pytest.mark.parametrize("name", ["n_averaged", "module.", "module", "_orig_mod", ""])
def test_names_that_are_nothing_but_wrapping_are_refused(path: Path, name: str) -> None:
    assert "is missing" in refusal({name: torch.ones(1)}, path)


def test_prefix_of_some_names_alone_is_no_wrapping(model: UViT, path: Path) -> None:
    tensors = model.state_dict()
    tensors[f"module.{WEIGHT}"] = tensors.pop(WEIGHT)
    assert f"{WEIGHT} in {path}: is missing" in refusal(tensors, path)


def test_value_of_an_unknown_class_is_refused_naming_it(model: UViT, path: Path) -> None:
    message = refusal({"ema": model.state_dict(), "when": datetime(2026, 1, 1)}, path)
    assert "it asks for datetime.datetime" in message
    assert "save the model's tensors by name" in message


def nan(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, float("nan"))


def one_infinity(tensor: Tensor) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[-1] = float("-inf")
    return changed


WRONG: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "int64": (lambda tensor: tensor.long(), "holds int64, not floating-point numbers"),
    "bool": (lambda tensor: tensor.bool(), "holds bool"),
    "complex64": (lambda tensor: tensor.to(torch.complex64), "holds complex64"),
    "all NaN": (nan, "has a number that is not finite"),
    "one infinity": (one_infinity, "has a number that is not finite"),
    "NaN in half precision": (lambda tensor: nan(tensor).half(), "has a number that is not finite"),
}
IN_A_PICKLE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "sparse": (lambda tensor: tensor.to_sparse(), "is a sparse_coo tensor"),
    "sparse rows": (lambda tensor: tensor.to_sparse_csr(), "is a sparse_csr tensor"),
    "meta": (lambda tensor: tensor.to("meta"), "is on the device meta"),
    "repeated": (lambda tensor: tensor[:1, :1].clone().expand(tensor.shape), "claims more numbers than the file has"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(("change", "problem"), (WRONG | IN_A_PICKLE).values(), ids=WRONG | IN_A_PICKLE)
def test_pickled_tensor_that_is_no_weights_is_refused_naming_it(
    model: UViT, path: Path, change: Callable[[Tensor], Tensor], problem: str, zipped: bool
) -> None:
    tensors = model.state_dict()
    torch.save(tensors | {WEIGHT: change(tensors[WEIGHT])}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as caught:
        uvit.load_public(UVIT_SHAPE, "tiny", path)
    assert problem in caught.value.problem
    assert caught.value.subject == f"{WEIGHT} in {path}"


NOT_MADE: dict[str, Callable[[Tensor], Tensor]] = {
    "nested": lambda tensor: torch.nested.nested_tensor(list(tensor)),
    "quantized": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:.*quantize_per_tensor.*")
@pytest.mark.parametrize("change", NOT_MADE.values(), ids=NOT_MADE)
def test_tensor_of_a_kind_that_no_weights_have_is_not_even_made(
    model: UViT, path: Path, change: Callable[[Tensor], Tensor]
) -> None:
    tensors = model.state_dict()
    assert "it asks for torch._utils._rebuild_" in refusal(tensors | {WEIGHT: change(tensors[WEIGHT])}, path)


def saved_dit(folder: Path) -> Path:
    tiny_dit().save(folder)
    return folder / WEIGHTS


def saved_uvit(folder: Path) -> Path:
    tiny_uvit().save(folder)
    return folder / WEIGHTS


def saved_autoencoder(folder: Path) -> Path:
    return save_tiny_autoencoder(folder) / WEIGHTS.name


FOLDERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "dit": (saved_dit, partial(dit.load_folder, "tiny")),
    "uvit": (saved_uvit, partial(uvit.load_folder, "tiny")),
    "autoencoder": (saved_autoencoder, LatentDecoder),
}


@pytest.mark.parametrize(("save", "load"), FOLDERS.values(), ids=FOLDERS)
@pytest.mark.parametrize(("change", "problem"), WRONG.values(), ids=WRONG)
def test_weights_of_a_folder_that_are_none_are_refused_naming_the_tensor(
    tmp_path: Path,
    save: Callable[[Path], Path],
    load: Callable[[Path], object],
    change: Callable[[Tensor], Tensor],
    problem: str,
) -> None:
    weights = save(tmp_path)
    load(tmp_path)
    tensors = load_file(weights)
    name = sorted(tensors)[-1]
    save_file(tensors | {name: change(tensors[name])}, weights)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert caught.value.subject == f"{name} in {weights}"
    assert problem in caught.value.problem
