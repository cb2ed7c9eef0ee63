"""Where versions in tests say that they come from."""

from typing import Any

from mlflow import MlflowClient

from l2c_ray.registry.lineage import Lineage
from l2c_ray.registry.registration import Registration, register
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import RegisteredVersion
from l2c_ray.schedule import Schedule


def lineage(tracked: TrackedRun, **more: Any) -> Lineage:
    told: dict[str, Any] = {"run": "first", "config": {}, "data": "noise", "seeds": {"learning": 0}}
    return Lineage(run_id=tracked.id, **(told | more))


def add(
    client: MlflowClient,
    run: TrackedRun,
    schedule: Schedule,
    *,
    worth_serving: bool = True,
    chosen: bool = False,
    image_shape: tuple[int, int, int] = (1, 8, 8),
    **metrics: float,
) -> RegisteredVersion:
    """Registers a schedule."""
    asked = Registration(
        schedule=schedule,
        lineage=lineage(run),
        image_shape=image_shape,
        metrics=metrics,
        samples=None,
        worth_serving=worth_serving,
        chosen=chosen,
    )
    return register(client, asked)
