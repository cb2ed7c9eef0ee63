"""Computes everything every few steps and reuses everything in between (FORA, arXiv 2407.01425)."""

from l2c_ray.schedule import Mask


def fixed_interval_mask(steps: int, units: int, interval: int) -> Mask:
    """Mask [steps][units] whose steps 0, interval, 2 * interval, ... compute all units and the others none."""
    return tuple((int(step % interval == 0),) * units for step in range(steps))
