#!/usr/bin/env python
"""Trains the embedded digit classifier on 80% of the digits and writes it with its accuracy on the rest."""

import sys

import torch

from l2c_ray.data import digits
from l2c_ray.data.digits import LabelledImages
from l2c_ray.evaluation import classifier
from l2c_ray.storage.files import write_text
from l2c_ray.storage.tensors import write_tensors

SEED = 0

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


def main() -> int:
    data = digits.load()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(SEED))
    training, held_out = (
        LabelledImages(data.images[part], data.labels[part]) for part in order.split([1440, len(data) - 1440])
    )
    trained = classifier.train(training, SEED)
    accuracy = trained.accuracy(held_out.images, held_out.labels)
    write_tensors(classifier.WEIGHTS, {name: tensor.half() for name, tensor in trained.state_dict().items()})
    card = CARD.format(seed=SEED, training=len(training), held_out=len(held_out), accuracy=accuracy)
    print(write_text(classifier.WEIGHTS.with_name("README.md"), card).read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
