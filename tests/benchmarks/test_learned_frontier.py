"""The schedules that ship in the package against every rule that makes schedules, on the same images.

Where a rule has points on both sides of a learned schedule's compute share, the learned one has less error than the
rule's curve has there (the logarithm of the error, interpolated). The images are the first of the frontier protocol;
`make comparisons` takes more of them.

Error over that of the best static rule (Taylor, order 2, where it reaches; else the calibrated one), digits-dit:
0.06 to 0.11 below a share of 0.51, 0.08 at 0.62, 0.07 at 0.75, 0.26 at 0.88.
"""

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from l2c_ray.evaluation.frontier import LEARNED
from l2c_ray.policies.rules import RULES

L2C = Path(sys.executable).with_name("l2c")
IMAGES = 128
MOST_OF_CALIBRATED = 0.8
"""Of the calibrated rule's error, at compute shares around 0.62."""

Points = list[tuple[float, float]]
"""Compute shares with their errors, rising in the share."""


@pytest.mark.parametrize("model", ["digits-dit", "digits-uvit"])
def test_learned_schedules_lie_under_every_rules_curve(model: str) -> None:
    rows = compare(model)
    learned = curve(rows, LEARNED)
    assert learned[0][0] < 0.51
    assert learned[-1][0] > 0.85
    rules = sorted({row["curve"] for row in rows if row["curve"].split()[0] in {*RULES, "fewer"}})
    ratios: dict[str, list[float]] = {
        rule: [error / there for share, error in learned if (there := at(curve(rows, rule), share)) is not None]
        for rule in rules
    }
    for rule, found in ratios.items():
        print(f"{model}, error over that of {rule}: {', '.join(f'{ratio:.3f}' for ratio in found)}")
    assert all(ratio < 1 for found in ratios.values() for ratio in found)
    (middle,) = [(share, error) for share, error in learned if 0.6 < share < 0.64]
    calibrated = [there for rule in rules if "calibrated" in rule if (there := at(curve(rows, rule), middle[0]))]
    assert middle[1] <= MOST_OF_CALIBRATED * min(calibrated)


def compare(model: str) -> list[dict[str, Any]]:
    policies = [argument for rule in RULES for argument in ("--policies", rule)]
    command = [str(L2C), "compare", model, *policies, "--images", str(IMAGES), "--json"]
    rows: list[dict[str, Any]] = json.loads(subprocess.check_output(command))["rows"]
    return rows


def curve(rows: list[dict[str, Any]], name: str) -> Points:
    return sorted((row["compute_share"], row["mse"]) for row in rows if row["curve"] == name and row["mse"])


def at(points: Points, share: float) -> float | None:
    """The curve's error at a share that lies between two of its points; None elsewhere."""
    for (left, error), (right, next_error) in pairwise(points):
        if left <= share <= right and left < right:
            weight = (share - left) / (right - left)
            return math.exp((1 - weight) * math.log(error) + weight * math.log(next_error))
    return None
