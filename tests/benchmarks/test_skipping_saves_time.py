"""Wall time of a scheduled run over a full one, in turns in one process, beside the compute share that was promised.

A skipped unit saves its matrix products and its share of the modulation, but not its gate and addition, so the saving
in time stays behind that in multiply-accumulates, more so the narrower the model.
"""

import statistics
import time

import torch

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.schedule import Provenance, Schedule

REPEATS = 7
IMAGES = 64


def test_fixed_interval_saves_most_of_its_share() -> None:
    torch.set_num_threads(2)
    pipeline = Pipeline.load("digits-dit", steps=20)
    provenance = Provenance(policy="fixed-interval", settings={"interval": 2})
    schedule = make_schedule(pipeline, fixed_interval(20, len(pipeline.model.units), interval=2), provenance)
    _seconds(pipeline, None)
    ratios = [_seconds(pipeline, schedule) / _seconds(pipeline, None) for _ in range(REPEATS)]
    middle, spread = statistics.median(ratios), max(ratios) - min(ratios)
    print(f"\ntime share {middle:.3f} (spread {spread:.3f}) at compute share {schedule.compute_share:.3f}")
    assert middle < schedule.compute_share + 0.2


def _seconds(pipeline: Pipeline, schedule: Schedule | None) -> float:
    start = time.perf_counter()
    pipeline.generate([index % 10 for index in range(IMAGES)], range(IMAGES), schedule)
    return time.perf_counter() - start
