"""The most memory that learning holds on a DiT-B/2: within a budget, beside the paper's loop as published.

Each in a process of its own, weights and interpreter counted: twenty steps with guidance beside one pair without. What
C's allocator keeps of memory that was freed is left out, as a GPU's counter of allocated memory leaves it out: tensors
get pages of their own and give them back.

What was tried, in GB for 4 steps of one image, 0.98 of them before learning starts:
- 1.62 with each evaluation's graph made again for every pass back;
- 1.44, but half as much again for every further step, with each unit's graph made again as well: what goes into a
  unit has to be kept then for all of them;
- 1.33 with differences of values made again too, and nothing noted of a step that is run once more, whose graph
  stayed with what was noted: kept.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("peak_memory.py")
REPEATS = 5
MOST = 0.5
TENSORS_ARE_GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def test_learning_holds_at_most_half_of_the_memory_of_the_published_loop() -> None:
    ratios = []
    for repeat in range(REPEATS):
        published, ours = (peak(loop) for loop in ("published", "ours"))
        ratios.append(ours / published)
        print(f"\nrepeat {repeat}: {ours / 1e9:.2f} GB of {published / 1e9:.2f} GB, {ratios[-1]:.3f}")
    print(f"memory over the published loop's: {statistics.median(ratios):.3f} (spread {max(ratios) - min(ratios):.3f})")
    assert max(ratios) <= MOST


def peak(loop: str) -> int:
    """In bytes."""
    variables = os.environ | TENSORS_ARE_GIVEN_BACK
    done = subprocess.run([sys.executable, SCRIPT, loop], env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)
