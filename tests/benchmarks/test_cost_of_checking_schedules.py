"""Reading a schedule takes time that grows with its steps, not with their square."""

import time
import timeit
from statistics import median

from l2c_ray.schedule import (
    MOST_STEPS,
    Cost,
    Guidance,
    Macs,
    ModelIdentity,
    Provenance,
    SamplerIdentity,
    Schedule,
    Table,
)

UNITS = 56
"""Number of units of DiT-XL/2."""
FEW_STEPS = MOST_STEPS // 8
REPEATS = 9
MOST_TIMES_LINEAR = 2
"""Work that grows with the square of the steps takes eight times as long as linear work."""


def test_reading_eight_times_as_many_steps_takes_eight_times_as_long() -> None:
    texts = [schedule(steps).to_json() for steps in (FEW_STEPS, MOST_STEPS)]
    ratios = sorted(seconds(texts[1]) / seconds(texts[0]) for _ in range(REPEATS))
    print(
        f"\n{MOST_STEPS} steps take {median(ratios):.1f} times as long to read as {FEW_STEPS}, "
        f"from {ratios[0]:.1f} to {ratios[-1]:.1f} over {REPEATS} repeats"
    )
    assert median(ratios) < MOST_TIMES_LINEAR * MOST_STEPS / FEW_STEPS


def schedule(steps: int) -> Schedule:
    """Reuses half of the units at each step after the first two, each with a coefficient."""
    mask = ((1,) * UNITS,) * 2 + tuple(tuple((step + unit) % 2 for unit in range(UNITS)) for step in range(2, steps))
    forecast = tuple(tuple(() if bit else (0.5,) for bit in row) for row in mask)
    names = tuple(f"blocks.{number // 2}.{('attention', 'mlp')[number % 2]}" for number in range(UNITS))
    timesteps = tuple(float(step) for step in reversed(range(steps)))
    return Schedule.create(
        ModelIdentity(name="dit", family="dit", depth=UNITS // 2, units=names, weights_sha256=None),
        SamplerIdentity(name="ddim", order=1, steps=steps, timesteps=timesteps, guidance=Guidance(scale=1.5)),
        Table.of(mask, None, forecast),
        Provenance(policy="test", settings={}),
        Cost(layers=Macs(full=2, cached=1), with_attention=Macs(full=2, cached=1)),
    )


def seconds(text: str) -> float:
    """CPU time, the least of three, without the garbage collector, as timeit measures."""
    reading = timeit.Timer(lambda: Schedule.from_json(text, source="test"), timer=time.process_time)
    return min(reading.repeat(repeat=3, number=1))
