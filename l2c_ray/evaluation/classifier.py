"""A small digit classifier, which names the digit of a sample and gives the features of the Fréchet distance."""

from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from l2c_ray.data.digits import IMAGE_SHAPE, NUM_CLASSES
from l2c_ray.errors import CheckpointError
from l2c_ray.storage.tensors import read_tensors

FEATURES = 64
WEIGHTS = Path(str(files("l2c_ray.evaluation"))) / "embedded" / "digits-classifier" / "model.safetensors"


class DigitClassifier(nn.Module):
    """Two convolutions and two linear layers on images [n, 1, 8, 8] in [-1, 1]."""

    num_features = FEATURES
    """The width of `forward`'s result; torchmetrics reads it under this name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Features [n, 64] of the last hidden layer."""
        features: Tensor = self.body(images)
        return features

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of images that are classified correctly, in [0, 1]."""
        named: Tensor = self.head(self(images)).argmax(1)
        return (named == labels).float().mean().item()


def load() -> DigitClassifier:
    """The classifier that ships in the package, frozen.

    Raises:
        CheckpointError: its file is missing or not the classifier's.
    """
    classifier = DigitClassifier()
    try:
        classifier.load_state_dict({name: tensor.float() for name, tensor in read_tensors(WEIGHTS).items()})
    except RuntimeError as error:
        raise CheckpointError(
            str(WEIGHTS), "holds other tensors than the classifier", "reinstall the package"
        ) from error
    return classifier.requires_grad_(False).eval()


def judge_of(image_shape: tuple[int, int, int]) -> DigitClassifier | None:
    """The classifier for images of this shape; None unless they are digits'. Raises as `load` does."""
    return load() if image_shape == IMAGE_SHAPE else None
