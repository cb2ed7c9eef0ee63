"""Seeds of single draws, so that iteration i of a resumed run draws what iteration i of an undisturbed one does."""

import hashlib


def draw_seed(seed: int, purpose: str, number: int, rank: int = 0) -> int:
    """A 63-bit seed of its own for every (seed, purpose, number, rank), whatever else a config says."""
    digest = hashlib.sha256(f"{seed} {purpose} {number} {rank}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
