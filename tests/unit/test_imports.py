"""Heavy libraries that the import of each entry point may load; all others wait for their use."""

import subprocess
import sys
from pathlib import Path

import pytest

import l2c_ray

HEAVY = {
    "boto3",
    "botocore",
    "diffusers",
    "fastapi",
    "matplotlib",
    "mlflow",
    "numpy",
    "optuna",
    "pandas",
    "PIL",
    "pyarrow",
    "ray",
    "requests",
    "scipy",
    "sklearn",
    "sqlalchemy",
    "torch",
    "torchmetrics",
}
PACKAGE = Path(l2c_ray.__file__).parent
JOBS = PACKAGE.parent / "jobs"


def modules_of(*folders: str) -> list[str]:
    files = (file for folder in folders for file in sorted((PACKAGE / folder).glob("*.py")))
    return [".".join(("l2c_ray", *file.relative_to(PACKAGE).with_suffix("").parts)) for file in files]


LIGHT = [
    "l2c_ray",
    "l2c_ray.library",
    "l2c_ray.schedule",
    *modules_of("cli", "config", "policies", "registry"),
    "l2c_ray.distributed.local_head",
    "l2c_ray.interop.cache_dit",
    "l2c_ray.interop.smoothcache",
    "l2c_ray.models.zoo",
    "l2c_ray.sampling.solvers",
    "l2c_ray.search.results",
    "l2c_ray.storage.folder",
    "l2c_ray.storage.opening",
]
"""Modules that every command imports before its work begins, and checks its input by."""
LIGHT.remove("l2c_ray.registry.pyfunc")
"""MLflow loads it to make images."""

A_LEARNER = """
from l2c_ray.config.learn import LearnConfig
from l2c_ray.distributed.run import Run

tables = {"model": {"name": "digits-dit"}, "router": {"budget": 0.5}, "training": {"iterations": 9}}
Run.prepare(LearnConfig.parse(tables, source="test"))
"""

RAY = {"ray", "requests"}
RAY_TRAIN = RAY | {"pandas", "pyarrow"}
RAY_SERVE = RAY | {"fastapi", "pandas", "pyarrow"}

ENTRY_POINTS = {
    "worker": ("import l2c_ray.distributed.worker" + A_LEARNER, RAY_TRAIN | {"diffusers", "numpy", "PIL", "torch"}),
    "sampler": ("import l2c_ray.distributed.sampling", RAY | {"numpy", "torch"}),
    "run monitor": ("import l2c_ray.distributed.run_monitor", RAY),
    "trial": ("import l2c_ray.distributed.trials", RAY_TRAIN | {"numpy", "torch"}),
    "learning driver": ("import l2c_ray.distributed.learn", RAY_TRAIN | {"numpy", "torch"}),
    "serving application": ("import l2c_ray.serving.app", RAY_SERVE | {"numpy", "torch"}),
    "loader of pyfunc": ("import l2c_ray.registry.pyfunc", {"numpy", "torch"}),
}


def test_no_module_of_a_command_loads_a_heavy_library() -> None:
    imports = "\n".join(f"import {module}" for module in LIGHT)
    assert loaded(imports) == set()


def test_threshold_that_is_no_score_is_refused_by_light_modules_alone() -> None:
    options = ["--model", "digits-dit", "--steps", "4", "--threshold", "nan", "-o", "schedule.json"]
    given = ["schedule", "import", "router.pt", *options]
    refused = f"try: main({given})\nexcept SystemExit as end: assert end.code == 2"
    assert loaded(f"from l2c_ray.cli.main import main\n{refused}") == set()


@pytest.mark.parametrize("job", sorted(JOBS.glob("*.py")), ids=lambda job: job.stem)
def test_no_job_loads_a_heavy_library_before_its_work(job: Path) -> None:
    assert loaded(f"import runpy; runpy.run_path({str(job)!r})") == set()


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_an_entry_point_loads_nothing_that_it_does_not_need(name: str) -> None:
    code, allowed = ENTRY_POINTS[name]
    assert loaded(code) == allowed


REFUSED = {
    "label": ("generate", "digits-dit", "--label", "11", "--out", "x.png"),
    "label of a published model": ("generate", "uvit-s-2-256", "--checkpoint", "/", "--label", "1000", "--out", "x"),
    "vae": ("generate", "digits-dit", "--label", "1", "--out", "x.png", "--vae", "/nowhere"),
    "image in an unwritable folder": ("generate", "digits-dit", "--label", "1", "--out", "/proc/x.png"),
    "image that is a folder": ("generate", "digits-dit", "--label", "1", "--out", str(PACKAGE)),
    "profile that is a folder": ("profile", "digits-dit", "--out", str(PACKAGE)),
    "images to encode": (
        *("encode", str(JOBS / "configs" / "encode-imagenet-256.toml")),
        *("--set", "source.images='/nowhere'", "--set", "latents.vae='/'"),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_loads_no_heavy_library(what: str) -> None:
    code = f"""
import sys
from l2c_ray.cli.main import main
try:
    main({REFUSED[what]!r})
except SystemExit as ended:
    assert ended.code == 2, ended.code
"""
    assert loaded(code) == set()


def test_training_the_classifier_in_a_job_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    job = JOBS / "train_classifier.py"
    code = f"""
import runpy, sys
sys.argv = [{str(job)!r}]
try:
    runpy.run_path({str(job)!r}, run_name="__main__")
except SystemExit as ended:
    assert ended.code == 2, ended.code
"""
    assert loaded(code) == set()
    done = subprocess.run([sys.executable, job], stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr.startswith("error: jobs/train_classifier.py: writes into the package")
    assert done.stderr.endswith("; run it where the checkout is\n")


def loaded(code: str) -> set[str]:
    """The heavy libraries that a process has loaded which runs this code."""
    told = "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + told], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stderr.splitlines()[-1].split())
