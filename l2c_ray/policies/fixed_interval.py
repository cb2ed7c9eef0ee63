"""Computes everything every few steps and reuses everything in between (FORA, arXiv 2407.01425)."""

from l2c_ray.schedule import Table


def fixed_interval(steps: int, units: int, interval: int) -> Table:
    """Steps 0, interval, 2 * interval, ... compute all units and the others none."""
    return Table.of(tuple((int(step % interval == 0),) * units for step in range(steps)))
