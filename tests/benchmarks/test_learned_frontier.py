"""The schedules that ship in the package against every rule that makes schedules, on the same images.

Where a rule has points on both sides of a learned schedule's compute share, the learned one has less error than the
rule's curve has there (the logarithm of the error, interpolated). Measured five times, on other images each time, none
of which a learner or a refinement has seen; `make comparisons` takes more of them at once.

What did not help to get there (digits-dit, share 0.5): straight-through gates, whose masks oscillate; Adam on the
coefficients, which leaves a floor of about 1e-5; many swaps an iteration, which undo each other; images weighted by
their error, so that one outlier decides; importances with the refit of all coefficients (a Schur complement of
the Gauss-Newton matrix), which its noise spoils (7e-4 for 5e-5); the full Gauss-Newton step in every iteration. What
did: tightening slowly and budget by budget; images that count by c / (e + c); fitting all coefficients of a settled
mask at once (4.6e-5 to 2.4e-5 on one mask). A second difference in the forecast took another sixth off and is not in.
Without forecasts a mask that is chosen to the end did better than one settled and swapped (6.0e-4 for 7.1e-4, once).
"""

import json
import math
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from l2c_ray.evaluation.frontier import FIRST_SEED
from l2c_ray.policies.rules import RULES
from l2c_ray.schedule import LEARNED

L2C = Path(sys.executable).with_name("l2c")
REPEATS, IMAGES = 5, 32
MOST_OF_CALIBRATED = 0.8
"""Limit relative to the calibrated rule's error, at compute shares around 0.62."""
MOST_OF_BEST = {0.5: 0.15, 0.35: 0.3, 0.25: 0.3}
"""Limits relative to the best static rule's error, by compute share."""
WIDEST = {"digits-dit --steps 20": 0.85, "digits-dit --steps 50": 0.49, "digits-uvit --steps 20": 0.85}
"""Least compute share of the loosest learned schedule, by model and steps."""

Points = list[tuple[float, float]]
"""Compute shares with an error or a distance, rising in the share."""


@pytest.fixture(scope="module", params=list(WIDEST))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def repeats(model: str) -> list[list[dict[str, Any]]]:
    """The rows of every candidate, in each repeat."""
    return [compare(model, FIRST_SEED + IMAGES * repeat) for repeat in range(REPEATS)]


@pytest.fixture
def rules(repeats: list[list[dict[str, Any]]]) -> list[str]:
    """The curves of all rules whose schedules are static, and that of fewer steps."""
    return sorted({row["curve"] for row in repeats[0] if row["curve"].split()[0] in {*RULES, "fewer"}})


def test_learned_schedules_lie_under_every_rules_curve(
    model: str, repeats: list[list[dict[str, Any]]], rules: list[str]
) -> None:
    # As many images in each repeat: the mean is the error of all.
    rows = [same[0] | {"mse": statistics.mean(row["mse"] for row in same)} for same in zip(*repeats, strict=True)]
    learned = curve(rows, LEARNED)
    assert learned[0][0] < 0.27
    assert learned[-1][0] > WIDEST[model]
    ratios: dict[str, list[float]] = {
        rule: [error / there for share, error in learned if (there := at(curve(rows, rule), share)) is not None]
        for rule in rules
    }
    for rule, found in ratios.items():
        print(f"{model}, error over that of {rule}: {', '.join(f'{ratio:.3f}' for ratio in found)}")
    assert all(ratio < 1 for found in ratios.values() for ratio in found)
    middle = [(share, error) for share, error in learned if 0.6 < share < 0.64]
    assert middle or WIDEST[model] < 0.6
    for share, error in middle:
        calibrated = [there for rule in rules if "calibrated" in rule if (there := at(curve(rows, rule), share))]
        assert error <= MOST_OF_CALIBRATED * min(calibrated)


def test_little_of_the_best_rules_error_is_left_at_low_shares(
    model: str, repeats: list[list[dict[str, Any]]], rules: list[str]
) -> None:
    missed = []
    for wanted, most in MOST_OF_BEST.items():
        for measure, limit in (("mse", most), ("frechet_to_full", 1.0)):
            ratios = [over_the_best(rows, rules, measure, wanted) for rows in repeats]
            median = statistics.median(ratios)
            spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
            print(f"{model}, {measure} at {wanted} over that of the best rule: {median:.3f} ({spread})")
            if median > limit:
                missed.append(f"{measure} at {wanted}: {median:.3f}, at most {limit}")
    assert not missed


def over_the_best(rows: list[dict[str, Any]], rules: list[str], measure: str, wanted: float) -> float:
    """The learned schedule's measure at this share over the best rule's at the same."""
    (share, ours) = min(curve(rows, LEARNED, measure), key=lambda point: abs(point[0] - wanted))
    assert abs(share - wanted) < 0.02
    return ours / min(there for rule in rules if (there := at(curve(rows, rule, measure), share)) is not None)


def compare(model: str, first_seed: int) -> list[dict[str, Any]]:
    policies = [argument for rule in RULES for argument in ("--policies", rule)]
    images = ["--images", str(IMAGES), "--first-seed", str(first_seed)]
    command = [str(L2C), "compare", *model.split(), *policies, *images, "--json"]
    rows: list[dict[str, Any]] = json.loads(subprocess.check_output(command))["rows"]
    return rows


def curve(rows: list[dict[str, Any]], name: str, measure: str = "mse") -> Points:
    return sorted((row["compute_share"], row[measure]) for row in rows if row["curve"] == name and row[measure])


def at(points: Points, share: float) -> float | None:
    """The curve's value at a share that lies between two of its points; None elsewhere."""
    for (left, error), (right, next_error) in pairwise(points):
        if left <= share <= right and left < right:
            weight = (share - left) / (right - left)
            return math.exp((1 - weight) * math.log(error) + weight * math.log(next_error))
    return None
