"""Learning runs of `l2c learn` that a test kills, stops or cuts off, and what they leave behind."""

import re
from dataclasses import dataclass

from real_cluster import DIGITS, SMALL, set_options
from real_object_store import BUCKET, ObjectServer

from l2c_ray.storage.objects import ObjectStore

RUNS = f"s3://{BUCKET}/runs"
"""Storage of runs on a cluster without its keys, which only the driver has."""


RESUMED = (*SMALL, "cluster.workers=2", "run.seed=3", "run.name='resumed'")
"""Settings of a run that some tests share when it is finished, but for its iterations."""


@dataclass(frozen=True)
class ResumedRun:
    """Observations of that run."""

    stopped_at: int
    """Iterations of its first job."""
    iterations: int
    """In the end."""
    log: str
    """Log of its second job."""


def learning(*overrides: str) -> list[str]:
    """The command, made small; it goes on for a while unless told otherwise."""
    return ["l2c", "learn", str(DIGITS), *set_options(*SMALL, "training.iterations=1000", *overrides)]


def in_s3(server: ObjectServer) -> dict[str, str]:
    """The variables of a driver whose run is kept there, and is told of by Ray's dashboard."""
    return server.environment() | {"L2C_STORAGE": RUNS, "RAY_TRAIN_ENABLE_STATE_TRACKING": "1"}


def checkpoints(store: ObjectStore, run: str) -> list[str]:
    return [name for name in store.names(run) if name.endswith("/state.safetensors")]


def iterations(log: str) -> list[int]:
    """Iterations in a log."""
    return [int(number) for number in re.findall(r"^learning (\d+)/", log, re.MULTILINE)]
