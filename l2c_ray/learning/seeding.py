"""Seeds of single draws, so that iteration i of a resumed run draws what iteration i of an undisturbed one does."""


def draw_seed(seed: int, iteration: int, iterations: int, rank: int = 0, workers: int = 1) -> int:
    """A number of its own for every (seed, iteration, rank) of one config."""
    return (seed * iterations + iteration) * workers + rank
