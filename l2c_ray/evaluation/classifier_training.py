"""Training of the digit classifier, which is written with a card of its accuracy."""

from pathlib import Path

import torch
import torch.nn.functional as F

from l2c_ray.data import digits
from l2c_ray.data.images import LabelledImages
from l2c_ray.evaluation.classifier import WEIGHTS, DigitClassifier
from l2c_ray.storage.files import make_writable, write_text
from l2c_ray.storage.tensors import write_tensors

SEED = 0
TRAINING_IMAGES = 1440

CARD = """\
# digits-classifier

A small convolutional network on scikit-learn's handwritten digits, trained apart from every generator: it judges
what a generated sample shows, and its last hidden layer gives the features of the Fréchet distance.

| | |
| --- | --- |
| command | `python jobs/train_classifier.py` |
| seed | {seed} |
| data | scikit-learn `load_digits`: {training} images to train, {held_out} held out |
| accuracy on the held-out images | {accuracy:.2%} |
| weights | float16 safetensors, Apache-2.0 |
"""


def train_and_write(folder: Path, epochs: int = 40) -> str:
    """Trains the classifier and writes its weights and README.md to `folder`, replacing those there; returns the card.

    Raises:
        StorageError: the folder cannot be written; nothing was trained.
    """
    make_writable(folder)
    data = digits.load()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(SEED))
    training, held_out = (
        LabelledImages(data.images[part], data.labels[part])
        for part in order.split([TRAINING_IMAGES, len(data) - TRAINING_IMAGES])
    )
    classifier = train(training, SEED, epochs)
    accuracy = classifier.accuracy(held_out.images, held_out.labels)
    card = CARD.format(seed=SEED, training=len(training), held_out=len(held_out), accuracy=accuracy)
    write_tensors(folder / WEIGHTS.name, {name: tensor.half() for name, tensor in classifier.state_dict().items()})
    write_text(folder / "README.md", card)
    return card


def train(data: LabelledImages, seed: int, epochs: int, batch_size: int = 64) -> DigitClassifier:
    """A classifier trained on `data` with cross-entropy; images are shifted by up to one pixel against memorising."""
    torch.manual_seed(seed)
    classifier = DigitClassifier()
    steps = epochs * (len(data) // batch_size)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(data), (batch_size,))
        down, right = torch.randint(-1, 2, (2,)).tolist()
        images = torch.roll(data.images[chosen], (down, right), (2, 3))
        loss = F.cross_entropy(classifier.head(classifier(images)), data.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()
