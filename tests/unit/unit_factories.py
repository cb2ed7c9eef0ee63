"""Small objects that tests of several modules are made of."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tiny_models import tiny_dit

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import (
    Cost,
    Guidance,
    Macs,
    Mask,
    ModelIdentity,
    Provenance,
    Quality,
    SamplerIdentity,
    Schedule,
    Table,
)

GUIDANCE = Guidance(scale=1.5)
MASK: Mask = ((1, 1, 1, 1), (0, 1, 0, 1), (1, 0, 1, 1))


def model_identity(**changes: Any) -> ModelIdentity:
    names = tuple(f"blocks.{block}.{kind}" for block in range(2) for kind in ("attention", "mlp"))
    fields = {"name": "small", "family": "dit", "depth": 2, "units": names, "weights_sha256": "a" * 64}
    return ModelIdentity(**(fields | changes))


def sampler_identity(**changes: Any) -> SamplerIdentity:
    fields = {"name": "ddim", "order": 1, "steps": 3, "timesteps": (999.0, 500.0, 0.0), "guidance": GUIDANCE}
    return SamplerIdentity(**(fields | changes))


def cost(cached: int, full: int = 1200) -> Cost:
    """Half of everything is inside attention."""
    return Cost(layers=Macs(full=full // 2, cached=cached // 2), with_attention=Macs(full=full, cached=cached))


def small_schedule(**changes: Any) -> Schedule:
    """Three steps of four units, made without any model."""
    fields = {
        "model": model_identity(),
        "sampler": sampler_identity(),
        "table": Table.of(MASK),
        "provenance": Provenance(policy="learned", settings={"lambda": 1e-4, "theta": 0.5, "seed": 0}),
        "cost": cost(cached=900),
    }
    return Schedule.create(**(fields | changes))


def sealed(content: dict[str, Any]) -> str:
    """The content as JSON under the hash that belongs to it, whatever it says."""
    hashed = {name: value for name, value in content.items() if name != "sha256"}
    canonical = json.dumps(hashed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return json.dumps(hashed | {"sha256": sha256(canonical.encode()).hexdigest()})


def tiny_pipeline(steps: int = 4, guidance: Guidance = GUIDANCE) -> Pipeline:
    model = tiny_dit()
    return Pipeline(model, make_solver("ddim", steps, model), guidance)


def measured_schedule(pipeline: Pipeline, table: Table) -> Schedule:
    """A schedule for the pipeline that says of itself what a measured one does."""
    plain = make_schedule(pipeline, table, Provenance(policy="test", settings={"number": 2}))
    return plain.with_quality(Quality(protocol="test", metrics={"mse": 1e-3}))


def learn_config(**sections: dict[str, Any]) -> LearnConfig:
    """A short run on four images an iteration."""
    values: dict[str, dict[str, Any]] = {
        "model": {"name": "digits-dit"},
        "router": {"lambda": 1e-3},
        "training": {"iterations": 6, "batch_size": 4},
    }
    for section, keys in sections.items():
        values[section] = values.get(section, {}) | keys
    return LearnConfig.parse(values, source="test")


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.sprung,)


@dataclass(frozen=True)
class Finished:
    """A command that exited."""

    code: int
    out: str
    err: str


L2C = Callable[..., Finished]
"""Runs `l2c` with these arguments."""

Refused = Callable[..., str]
"""Runs `l2c` with arguments that it has to refuse, and gives the line that says why."""
