"""How integration tests reach a real Ray head: the ways that a user has."""

import json
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run
from ray.job_submission import JobStatus, JobSubmissionClient

from l2c_ray.distributed import local_head
from l2c_ray.distributed.local_head import LocalHead

T = TypeVar("T")

PATIENCE = 900
"""Seconds after which what a test waits for is given up: far more than it takes on a slow and busy machine."""

REPOSITORY = Path(__file__).resolve().parents[1]
DIGITS = REPOSITORY / "jobs" / "configs" / "digits.toml"

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

# Small enough to take seconds, large enough that the router still moves.
SMALL = (
    "cluster.workers=1",
    "router.lambda=1e-4",
    "training.iterations=40",
    "training.batch_size=4",
    "training.checkpoint_every=10",
    "training.learning_rate=0.3",
    "evaluation.images=16",
)


@dataclass(frozen=True)
class Cluster:
    """The head, and the ways in which a user reaches it."""

    head: LocalHead
    home: Path

    def environment(self) -> dict[str, str]:
        variables = local_head.environment() | {"L2C_HOME": str(self.home), "RAY_ADDRESS": self.head.address}
        variables.pop("MLFLOW_TRACKING_URI", None)
        return variables

    @property
    def mlflow(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.home / 'mlflow.db'}")

    def mlflow_run(self, name: str) -> Run:
        """The only MLflow run of this name."""
        experiment = self.mlflow.get_experiment_by_name("l2c")
        (run,) = self.mlflow.search_runs([experiment.experiment_id], f"tags.`l2c.run` = '{name}'")
        return run

    @property
    def jobs(self) -> JobSubmissionClient:
        return JobSubmissionClient(self.head.dashboard_url, headers={"Authorization": f"Bearer {local_head.token()}"})

    def l2c(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs the command on this cluster."""
        return subprocess.run(
            ["l2c", *arguments],
            env=self.environment() | variables,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def learn(self, *overrides: str, config: Path = DIGITS, small: tuple[str, ...] = SMALL) -> dict[str, Any]:
        """`l2c learn`, made small unless told otherwise; its JSON."""
        done = self.l2c("learn", str(config), "--json", *set_options(*small, *overrides))
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def submit(self, *entrypoint: str) -> str:
        """`ray job submit --working-dir . --no-wait -- ENTRYPOINT` in the repository; the job's id."""
        command = ["ray", "job", "submit", "--address", self.head.dashboard_url, "--working-dir", ".", "--no-wait"]
        before = {job.submission_id for job in self.jobs.list_jobs()}
        subprocess.run(
            [*command, "--", *entrypoint], cwd=REPOSITORY, env=self.environment(), check=True, capture_output=True
        )
        (new,) = {job.submission_id for job in self.jobs.list_jobs()} - before
        assert new
        return new

    def wait_for_job(self, job: str) -> tuple[JobStatus, str]:
        """The job's end and its log."""
        wait_until(lambda: self.jobs.get_job_status(job).is_terminal())
        return self.jobs.get_job_status(job), self.jobs.get_job_logs(job)

    def train_workers(self) -> list[psutil.Process]:
        """The processes of the Ray Train workers that run now."""
        return self.processes("RayTrainWorker")

    def processes(self, name: str) -> list[psutil.Process]:
        """The cluster's processes that live and have this in their names."""
        return named(local_head.processes(self.head.temp_dir), name)

    def checkpoints(self, run_name: str) -> list[Path]:
        return sorted((self.home / "runs" / run_name).glob("checkpoint_*/state.safetensors"))


def named(processes: Iterable[psutil.Process], name: str) -> list[psutil.Process]:
    """Those that have this in their names, but for those that end meanwhile."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if name in process.name():
                found.append(process)
    return found


def listening(processes: Iterable[psutil.Process]) -> set[tuple[str, str, int]]:
    """Name of the process, address and port of all that these listen on, but for those that end meanwhile."""
    found = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            name, connections = process.name(), process.net_connections("inet")
            found |= {(name, *place.laddr) for place in connections if place.status == psutil.CONN_LISTEN}
    return found


def set_options(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def wait_until(holds: Callable[[], T], timeout: float = PATIENCE) -> T:
    """The first answer that counts as true."""
    deadline = time.monotonic() + timeout
    while not (answer := holds()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
    return answer
