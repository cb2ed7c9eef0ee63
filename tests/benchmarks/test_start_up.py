"""CPU time and memory of a start, over those of `import torch` in the same run.

Whoever types a command waits for what it imports, and so does every driver and worker of a test. What a command
refuses, it refuses before it imports anything large. A floor is what a process cannot do without, imported alone:
where that is more than is wanted, the process has to stay near it.

Before, when modules imported what any of their functions used: a driver took 4.4 times the CPU time of torch's import
and 2.8 times its memory, a worker 3.0 and 2.5 times, every other command as much as a driver.
"""

import os
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

REPEATS = 5
NEAR_THE_FLOOR = 1.15
REPOSITORY = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
SCHEDULE = "l2c_ray/evaluation/embedded/schedules/digits-dit-ddim-20/learned-0.499.json"

SAYS_ITS_MEMORY = """
import re
from pathlib import Path
print("peak", re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[0])
"""

LEARNS = """
from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig
from l2c_ray.data.training import open_training_images
from l2c_ray.learning.objectives import make_objective

tables = {"model": {"name": "digits-dit"}, "router": {"budget": 0.5}, "training": {"iterations": 9}}
config = LearnConfig.parse(tables, source="benchmark")
Pipeline.from_config(config.model, config.sampler)
open_training_images(config)
"""
WORKER = "import l2c_ray.distributed.worker\n" + LEARNS
"""All that a worker loads before its learner begins to evaluate the model, but for what Ray does."""
DRIVER = f"""
from l2c_ray.cli.learning import learn_and_report
import l2c_ray.distributed.learn
import l2c_ray.distributed.store_file_system
from l2c_ray.registry import tracking
{LEARNS}
tracking.connect()
"""
"""All that `l2c learn` loads before it hands its training to Ray, but for what Ray does."""

# The optimizer of every learner imports torch's compiler.
WORKER_FLOOR = """
import torch, torch._dynamo
import ray.train.torch
from diffusers import DDIMScheduler
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.modeling_utils import ModelMixin
"""
REGISTRY_FLOOR = """
import os
import rich.table, typer.main
from mlflow import MlflowClient
MlflowClient(f"sqlite:///{os.environ['L2C_HOME']}/mlflow.db").search_model_versions()
"""
DRIVER_FLOOR = WORKER_FLOOR + REGISTRY_FLOOR

ANSWERED = (
    "l2c --help",
    f"l2c schedule show {SCHEDULE}",
    f"l2c schedule export {SCHEDULE} --to cache-dit",
)
REFUSED = (
    "l2c schedule show none.json",
    "l2c schedule import none.pt --model dit-xl-2-256 --steps 20 --out a",
    "l2c generate digits-dit --label three --out a.png",
    "l2c generate none --label 3 --out a.png",
    "l2c generate digits-dit --label 3 --out a.png --schedule none.json",
    "l2c compare digits-dit --policies none",
    "l2c bench digits-dit --schedule none.json",
    "l2c profile dit-xl-2-256 --out a.json",
    "l2c registry show none",
    "l2c learn jobs/configs/digits.toml --set router.lamda=1",
    "l2c learn jobs/configs/digits.toml --set sampler.name=none",
    "l2c search jobs/configs/digits-search.toml --set study.trails=1",
    "l2c encode jobs/configs/encode-imagenet-256.toml --set latents.sed=1",
    "l2c imagenet generate none.toml",
    "l2c imagenet evaluate . --reference none.npz --inception none.pth",
    "l2c registry promote --config jobs/configs/promote-digits.toml --set gate.sed=1",
    "python jobs/learn.py --config none.toml",
    "python jobs/pretrain.py --config jobs/configs/pretrain-digits.toml --out a --set sed=1",
    "python jobs/train_classifier.py --none",
)


@dataclass(frozen=True)
class Start:
    """A command or program with limits on its cost."""

    command: Sequence[str]
    exit_code: int = 0
    most: float | None = None
    """Limit of CPU time, in that of torch's import."""
    floor: str | None = None
    most_memory: float | None = None
    """Limit of peak memory, in that of torch's import."""


def program(code: str) -> Sequence[str]:
    return ("python", "-c", code + SAYS_ITS_MEMORY)


STARTS = {
    "torch": Start(program("import torch")),
    "the library": Start(program("import l2c_ray"), most=0.1),
    "floor of the registry": Start(program(REGISTRY_FLOOR)),
    "floor of a worker": Start(program(WORKER_FLOOR)),
    "floor of a driver": Start(program(DRIVER_FLOOR)),
    **{command: Start(command.split(), most=0.4) for command in ANSWERED},
    **{command: Start(command.split(), exit_code=2, most=0.4) for command in REFUSED},
    "l2c registry list": Start(["l2c", "registry", "list"], most=1.2, floor="floor of the registry"),
    "a worker": Start(program(WORKER), most=2.5, floor="floor of a worker", most_memory=0.75 * 537 / 219),
    "a driver": Start(program(DRIVER), most=3.0, floor="floor of a driver", most_memory=0.75 * 616 / 219),
}


@dataclass(frozen=True)
class Used:
    seconds: float
    """CPU time."""
    memory: int
    """The most, in kB; 0 of what does not say it."""


def test_a_start_costs_no_more_than_it_has_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("L2C_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # MLflow makes its tables, once for all.
    measure(STARTS["l2c registry list"])
    times: dict[str, list[float]] = {name: [] for name in STARTS}
    memory: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(REPEATS):
        torch = measure(STARTS["torch"])
        for name, start in STARTS.items():
            used = measure(start)
            times[name].append(used.seconds / torch.seconds)
            memory[name].append(used.memory / torch.memory)
    print("\nCPU time (spread) and memory, over those of torch's import")
    for name in STARTS:
        told = f"{statistics.median(memory[name]):5.2f}" if memory[name][0] else " " * 5
        spread = max(times[name]) - min(times[name])
        print(f"{statistics.median(times[name]):5.2f} ({spread:.2f}) {told}  {name}")
    assert [name for name in STARTS if is_too_dear(name, times, memory)] == []


def is_too_dear(name: str, times: dict[str, list[float]], memory: dict[str, list[float]]) -> bool:
    start = STARTS[name]

    def limit(wanted: float, of: dict[str, list[float]]) -> float:
        return max(wanted, NEAR_THE_FLOOR * statistics.median(of[start.floor])) if start.floor else wanted

    slow = start.most is not None and statistics.median(times[name]) > limit(start.most, times)
    large = start.most_memory is not None and statistics.median(memory[name]) > limit(start.most_memory, memory)
    return slow or large


def measure(start: Start) -> Used:
    """Runs it alone, to its end."""
    name, *arguments = start.command
    with subprocess.Popen(
        [PROGRAMS / name, *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == start.exit_code, f"{start.command} ended with {process.returncode}"
    peak = re.findall(r"^peak (\d+)$", output, re.MULTILINE)
    return Used(usage.ru_utime + usage.ru_stime, int(peak[0]) if peak else 0)
