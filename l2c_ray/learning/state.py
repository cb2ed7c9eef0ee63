"""Training state as named tensors, so that a checkpoint is a safetensors file and never a pickle."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_MODULE = "module."
_OPTIMIZER = "optimizer."


def pack(module: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """Copies of the tensors of the module, and of the moments of its optimizer if there is one, by name."""
    tensors = {_MODULE + name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    for index, moments in (optimizer.state_dict()["state"] if optimizer else {}).items():
        for name, tensor in moments.items():
            tensors[f"{_OPTIMIZER}{index}.{name}"] = tensor.detach().clone()
    return tensors


def unpack(tensors: Mapping[str, Tensor], module: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    """Restores the result of `pack`; settings such as the learning rate stay the optimizer's own."""
    unpack_module(tensors, module)
    if optimizer is None:
        return
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _under(_OPTIMIZER, tensors).items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def unpack_module(tensors: Mapping[str, Tensor], module: nn.Module) -> None:
    """Restores the module from the result of `pack`, and leaves the optimizer alone."""
    module.load_state_dict(_under(_MODULE, tensors))


def is_of_module(tensors: Mapping[str, Tensor], module: nn.Module) -> bool:
    """Whether `pack` was given such a module, by the names of its tensors; older versions had others."""
    return _under(_MODULE, tensors).keys() == module.state_dict().keys()


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
