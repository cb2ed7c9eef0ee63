"""The plan of a schedule, made before any image is sampled: each unit's action at each step and the values it keeps."""

from dataclasses import dataclass
from functools import lru_cache

from l2c_ray.schedule import Table


@dataclass(frozen=True)
class Action:
    """Action of a unit at one step."""

    weights: tuple[float, ...] | None
    """None to compute. Otherwise weights of the values computed last, the last one first, whose sum is the output."""
    keep: int
    """Number of the values computed last that later steps need; the memory of the others is free."""


Plan = tuple[tuple[Action, ...], ...]
"""[steps][units]."""


@lru_cache(maxsize=64)
def plan(table: Table) -> Plan:
    """The actions of a table, worked out once for all batches that are run by it."""
    steps, units = range(len(table.compute)), range(len(table.compute[0]))
    by_unit = [_actions([_weights(table, step, unit) for step in steps]) for unit in units]
    return tuple(zip(*by_unit, strict=True))


def _weights(table: Table, step: int, unit: int) -> tuple[float, ...] | None:
    if table.compute[step][unit]:
        return None
    first, second = ((table.forecast[step][unit] if table.forecast else ()) + (0.0, 0.0))[:2]
    weights = (1 + first + second, -first - 2 * second, second)
    used = max(index for index, weight in enumerate(weights) if weight or index == 0) + 1
    return weights[:used]


def _actions(weights: list[tuple[float, ...] | None]) -> list[Action]:
    """The actions of one unit over all steps, from the last one back: what a step keeps is what later ones need."""
    actions = []
    needed = 0
    for step_weights in reversed(weights):
        actions.append(Action(step_weights, needed))
        # A computed value pushes the others one place back; a reuse needs as many as it sums.
        needed = max(needed - 1, 0) if step_weights is None else max(needed, len(step_weights))
    return actions[::-1]
