"""Inception weights as the public file has them, but drawn at random."""

from pathlib import Path

import torch
from torch import nn

from l2c_ray.evaluation.imagenet.inception import Inception


def write_random_inception(path: Path) -> Path:
    """A .pth file of about 90 MB, in which layers pass on enough to tell images apart."""
    torch.manual_seed(0)
    network = Inception()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    tensors = {name: value for name, value in network.state_dict().items() if "num_batches_tracked" not in name}
    torch.save(tensors, path)
    return path
