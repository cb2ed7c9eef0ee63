"""cache-dit's static mask: for each step one 1 (compute) or 0 (reuse), for all units alike."""

import json

from l2c_ray.interop.formats import Export, dropped_forecast
from l2c_ray.schedule import Schedule, Table


def export(schedule: Schedule) -> Export:
    """The schedule as the fields of cache-dit's `DBCacheConfig` that make it follow a mask.

    The mask reuses at a step only if the schedule reuses every unit there: it skips nothing that the schedule
    computes, and computes more.
    """
    mask = step_mask(schedule.table)
    fields = {
        "num_inference_steps": len(mask),
        "steps_computation_mask": mask,
        "steps_computation_policy": "static",
    }
    return Export(json.dumps(fields), (_lost(schedule.table, mask), *dropped_forecast(schedule.table)))


def step_mask(table: Table) -> list[int]:
    """Mask [steps]: 1 where any unit is computed, 0 where all are reused."""
    return [int(any(row)) for row in table.compute]


def _lost(table: Table, mask: list[int]) -> str:
    reused = [row.count(0) for row in table.compute]
    differ = sum(count for count, bit in zip(reused, mask, strict=True) if bit)
    steps = len(mask) - mask.count(0)
    return (
        f"the decisions of {differ} of {sum(reused)} reused units: the mask computes all units at {steps} of "
        f"{len(mask)} steps, wherever the schedule computes any"
    )
