"""Random draws of a learner."""

import torch

from l2c_ray.data.seeding import draw_seed


def make_generator(seed: int, purpose: str, number: int, rank: int = 0) -> torch.Generator:
    """A generator of its own for every (seed, purpose, number, rank), so that a resumed run repeats its draws."""
    return torch.Generator().manual_seed(draw_seed(seed, purpose, number, rank))
