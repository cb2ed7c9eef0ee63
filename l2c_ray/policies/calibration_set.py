"""The images that calibrated rules look at, none of which is ever measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field

from l2c_ray.data.seeding import draw_seed

CalibrationSeed = Annotated[int, Field(ge=0, le=2**53)]

OnCalibrated = Callable[[int, int], None]
"""Told how many images of a calibration are done and how many there are, at first and after each few."""


def calibration_set(images: int, seed: int, num_classes: int) -> tuple[Sequence[int], Sequence[int]]:
    """Labels spread evenly over the classes, and seeds, hashed so that no request and no measurement has them."""
    labels = [number * num_classes // images for number in range(images)]
    return labels, [draw_seed(seed, "calibration", number) for number in range(images)]
