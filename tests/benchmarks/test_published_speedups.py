"""Measured speed-up of the published routers at full size, beside what their multiply-accumulates promise.

On the CPU, one image with guidance, random weights, whole trajectories: 10 to 15 minutes on two free cores. They have
to be free: beside three other busy processes one pair of DiT-XL/2 came out at 1.19, with steps of the same work taking
from 7 to 43 seconds.

What a skipped unit still costs, and what was tried, by the CPU time of one evaluation of 4 blocks at the width of
DiT-XL/2 (two images, one thread, the least of 5 rounds; everything computed: 0.83 s) in which every unit is skipped:
- 42 ms as diffusers arranges it: every block runs an embedder of its own on the same timestep and label, and makes all
  six modulation vectors. For so few images that is 38 MB of weights to fetch from memory for each block. The products
  promise 0.3% of the time, this is 5%.
- 18 ms with one embedder for all blocks, as the authors' checkpoints have it, and with shift and scale made inside
  their unit, so that only gates are left. The multiply-accumulates count these with the unit too.
- `addcmul` for gate and addition: not kept, it rounds otherwise than diffusers does.
- U-ViT skips a unit for the price of one addition: 66 ms of 1.03 s where the skip connections and ends promise 63 ms.
  Nothing to gain.

With all that, every cache step of both routers at full size, in turn with the full evaluation, one thread of a busy
machine, in CPU time: DiT-XL/2 with DDIM-20 1.284 to 1.291 of the 1.285 promised, U-ViT-H/2 with DPM-20 1.377 to 1.379
of 1.370 (by paired shares and by sums). Units can save more than their share, since norms, softmax and GELU go with
them. In wall time on two free cores, as this file measures: DiT-XL/2 1.266 and 1.278 (0.990 of the promise), U-ViT-H/2
1.380 and 1.384 (1.009).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROUTERS = Path(os.environ.get("L2C_ROUTERS_DIR") or Path(__file__).resolve().parents[3] / "shared" / "routers")
L2C = Path(sys.executable).with_name("l2c")
PAIRS = 2
LEAST_OF_PROMISE = 0.97


@pytest.mark.parametrize(
    ("router", "model", "sampler", "threshold"),
    [
        ("dit_xl2_256_ddim20.pt", "dit-xl-2-256", "ddim", 0.1),
        ("uvit_h2_256_dpm20.pth", "uvit-h-2-256", "dpm-solver-2", 0.9),
    ],
)
def test_measured_speedup_is_what_the_products_promise(
    router: str, model: str, sampler: str, threshold: float, tmp_path: Path
) -> None:
    if not (ROUTERS / router).is_file():
        pytest.skip(f"{router} is not in {ROUTERS}; L2C_ROUTERS_DIR names the folder of the published routers")
    schedule = tmp_path / "schedule.json"
    sampling = ("--model", model, "--sampler", sampler, "--steps", 20, "--threshold", threshold)
    l2c("schedule", "import", ROUTERS / router, *sampling, "-o", schedule)
    weights = ("--random-weights", "--schedule", schedule)
    result = json.loads(l2c("bench", model, *weights, "--repeats", PAIRS, "--threads", 2, "--json"))
    print(
        f"\n{model}: {result['speedup']:.3f}x of {result['promised_speedup']:.3f}x promised, "
        f"pairs {', '.join(f'{speedup:.3f}' for speedup in result['speedups'])}"
    )
    assert result["measured_over_promised"] >= LEAST_OF_PROMISE


def l2c(*arguments: object) -> str:
    """The command's output; progress is on stderr."""
    command = [str(L2C), *(str(argument) for argument in arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
