"""Seeds of single draws, so that iteration i of a resumed run draws the same as in an uninterrupted one."""

import hashlib


def draw_seed(seed: int, purpose: str, number: int, rank: int = 0) -> int:
    """A 63-bit seed, different for every (seed, purpose, number, rank) and independent of other settings."""
    digest = hashlib.sha256(f"{seed} {purpose} {number} {rank}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
