"""The Inception network that FID, sFID and the Inception score are defined by, on weights in a local file.

It is Inception v3 (arXiv 1512.00567) as TensorFlow's graph of 2015-12-05 has it, under the tensor names of that
graph's PyTorch export (`pt_inception-2015-12-05`). Two things differ from the Inception of vision libraries, and move
every figure: average pooling leaves the padding out, and the last block pools by maximum.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2c_ray.models.checkpoints import require_tensors
from l2c_ray.models.published import read_public

POOLED = 2048
SPATIAL = 7 * 17 * 17
CLASSES = 1008

_SIDE = 299

_average = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_maximum = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
_halved = partial(F.max_pool2d, kernel_size=3, stride=2)


class Features(NamedTuple):
    """Features of a batch of images."""

    pooled: Tensor
    """[n, 2048]: the last hidden layer, of FID, precision and recall."""
    spatial: Tensor
    """[n, 2023]: the first 7 channels of `mixed_6/conv`, rows first and channels last, of sFID (arXiv 2103.03841)."""


class _Convolution(nn.Module):
    """A convolution, normalised and rectified; the size stays unless it has a stride or is told to shrink."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int] = (1, 1), *, stride: int = 1, shrinks: bool = False
    ) -> None:
        super().__init__()
        padding = (0, 0) if shrinks or stride > 1 else (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(hidden)))


@dataclass(frozen=True)
class _Branch:
    """One way through a block: a pooling, convolutions in turn, and convolutions side by side at the end."""

    path: dict[str, _Convolution] = field(default_factory=dict)
    fork: dict[str, _Convolution] = field(default_factory=dict)
    pool: Callable[[Tensor], Tensor] | None = None

    def __call__(self, hidden: Tensor) -> list[Tensor]:
        if self.pool:
            hidden = self.pool(hidden)
        for convolution in self.path.values():
            hidden = convolution(hidden)
        return [convolution(hidden) for convolution in self.fork.values()] or [hidden]


class _Block(nn.Module):
    """Branches whose outputs are joined along the channels."""

    def __init__(self, *branches: _Branch) -> None:
        super().__init__()
        self._branches = branches
        for branch in branches:
            for name, convolution in (branch.path | branch.fork).items():
                self.add_module(name, convolution)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([output for branch in self._branches for output in branch(hidden)], dim=1)


class Inception(nn.Module):
    """Inception v3: features of images, and the logits of 1008 classes from those."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, (3, 3), stride=2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, (3, 3), shrinks=True)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = _Convolution(64, 80)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, (3, 3), shrinks=True)
        self.Mixed_5b = _block_of_35(192, 32)
        self.Mixed_5c = _block_of_35(256, 64)
        self.Mixed_5d = _block_of_35(288, 64)
        self.Mixed_6a = _from_35_to_17()
        self.Mixed_6b = _block_of_17(128)
        self.Mixed_6c = _block_of_17(160)
        self.Mixed_6d = _block_of_17(160)
        self.Mixed_6e = _block_of_17(192)
        self.Mixed_7a = _from_17_to_8()
        self.Mixed_7b = _block_of_8(1280, _average)
        self.Mixed_7c = _block_of_8(2048, _maximum)
        self.fc = nn.Linear(POOLED, CLASSES)

    @property
    def device(self) -> torch.device:
        return self.fc.weight.device

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        """Features, on the CPU, of images [n, 3, height, width], uint8 and of any size."""
        hidden = _resized(images.to(self.device).float())
        hidden = (hidden - 128) / 128
        hidden = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(hidden)))
        hidden = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halved(hidden)))
        hidden = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(_halved(hidden))))
        hidden = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(hidden)))
        # TensorFlow's `mixed_6/conv` is the first branch of the block that PyTorch's naming calls 6d.
        spatial = self.Mixed_6d.get_submodule("branch1x1")(hidden)[:, :7].permute(0, 2, 3, 1).flatten(1)
        hidden = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(hidden)))
        pooled = self.Mixed_7c(self.Mixed_7b(hidden)).mean(dim=(2, 3))
        return Features(pooled.cpu(), spatial.cpu())

    @torch.no_grad()
    def logits(self, pooled: Tensor) -> Tensor:
        """[n, 1008] of pooled features [n, 2048], without the bias: so the Inception score has always been."""
        return pooled @ self.fc.weight.T


def load(path: Path, device: str = "cpu") -> Inception:
    """The network with the weights of a file, .safetensors or a .pth that is not run; frozen.

    Raises:
        CheckpointError: the file cannot be read, or holds other tensors than the export of 2015-12-05.
    """
    with torch.device("meta"):
        network = Inception()
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if not _is_count(name)}
    tensors = {name: tensor for name, tensor in read_public(path).items() if not _is_count(name)}
    require_tensors(wanted, tensors, path)
    counts = {name: torch.tensor(0) for name in network.state_dict() if _is_count(name)}
    network.load_state_dict(tensors | counts, assign=True)
    return network.float().requires_grad_(False).eval().to(device)


def _is_count(name: str) -> bool:
    """Whether a tensor counts training steps; only some copies of the export have such tensors."""
    return name.endswith("num_batches_tracked")


def _resized(images: Tensor) -> Tensor:
    """[n, 3, 299, 299], bilinearly as TensorFlow 1 does it: pixel i is read at i x (old side / 299)."""
    for axis in (2, 3):
        side = images.shape[axis]
        at = torch.arange(_SIDE, device=images.device, dtype=torch.float64) * side / _SIDE
        before = at.long()
        after = (before + 1).clamp(max=side - 1)
        shape = [_SIDE if dimension == axis else 1 for dimension in range(4)]
        weight = (at - before).to(images.dtype).view(shape)
        images = torch.lerp(images.index_select(axis, before), images.index_select(axis, after), weight)
    return images


def _block_of_35(inputs: int, pooled: int) -> _Block:
    """On 35x35 positions; `pooled` is the width of the pooling branch."""
    return _Block(
        _Branch({"branch1x1": _Convolution(inputs, 64)}),
        _Branch({"branch5x5_1": _Convolution(inputs, 48), "branch5x5_2": _Convolution(48, 64, (5, 5))}),
        _Branch(
            {
                "branch3x3dbl_1": _Convolution(inputs, 64),
                "branch3x3dbl_2": _Convolution(64, 96, (3, 3)),
                "branch3x3dbl_3": _Convolution(96, 96, (3, 3)),
            }
        ),
        _Branch({"branch_pool": _Convolution(inputs, pooled)}, pool=_average),
    )


def _from_35_to_17() -> _Block:
    return _Block(
        _Branch({"branch3x3": _Convolution(288, 384, (3, 3), stride=2)}),
        _Branch(
            {
                "branch3x3dbl_1": _Convolution(288, 64),
                "branch3x3dbl_2": _Convolution(64, 96, (3, 3)),
                "branch3x3dbl_3": _Convolution(96, 96, (3, 3), stride=2),
            }
        ),
        _Branch(pool=_halved),
    )


def _block_of_17(width: int) -> _Block:
    """On 17x17 positions; `width` is that of the factored 7x7 convolutions."""
    return _Block(
        _Branch({"branch1x1": _Convolution(768, 192)}),
        _Branch(
            {
                "branch7x7_1": _Convolution(768, width),
                "branch7x7_2": _Convolution(width, width, (1, 7)),
                "branch7x7_3": _Convolution(width, 192, (7, 1)),
            }
        ),
        _Branch(
            {
                "branch7x7dbl_1": _Convolution(768, width),
                "branch7x7dbl_2": _Convolution(width, width, (7, 1)),
                "branch7x7dbl_3": _Convolution(width, width, (1, 7)),
                "branch7x7dbl_4": _Convolution(width, width, (7, 1)),
                "branch7x7dbl_5": _Convolution(width, 192, (1, 7)),
            }
        ),
        _Branch({"branch_pool": _Convolution(768, 192)}, pool=_average),
    )


def _from_17_to_8() -> _Block:
    return _Block(
        _Branch({"branch3x3_1": _Convolution(768, 192), "branch3x3_2": _Convolution(192, 320, (3, 3), stride=2)}),
        _Branch(
            {
                "branch7x7x3_1": _Convolution(768, 192),
                "branch7x7x3_2": _Convolution(192, 192, (1, 7)),
                "branch7x7x3_3": _Convolution(192, 192, (7, 1)),
                "branch7x7x3_4": _Convolution(192, 192, (3, 3), stride=2),
            }
        ),
        _Branch(pool=_halved),
    )


def _block_of_8(inputs: int, pool: Callable[[Tensor], Tensor]) -> _Block:
    """On 8x8 positions."""
    return _Block(
        _Branch({"branch1x1": _Convolution(inputs, 320)}),
        _Branch(
            {"branch3x3_1": _Convolution(inputs, 384)},
            {"branch3x3_2a": _Convolution(384, 384, (1, 3)), "branch3x3_2b": _Convolution(384, 384, (3, 1))},
        ),
        _Branch(
            {"branch3x3dbl_1": _Convolution(inputs, 448), "branch3x3dbl_2": _Convolution(448, 384, (3, 3))},
            {"branch3x3dbl_3a": _Convolution(384, 384, (1, 3)), "branch3x3dbl_3b": _Convolution(384, 384, (3, 1))},
        ),
        _Branch({"branch_pool": _Convolution(inputs, 192)}, pool=pool),
    )
