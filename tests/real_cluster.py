"""A real Ray head for integration tests, reached in the ways that a user has."""

import io
import json
import logging
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, TypeVar

import mlflow
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from ray._private import ray_constants
from ray._raylet import Config
from ray.job_submission import JobStatus, JobSubmissionClient

from l2c_ray.cli.main import main
from l2c_ray.distributed import local_head
from l2c_ray.distributed.local_head import LocalHead

T = TypeVar("T")

PATIENCE = 480
"""Seconds after which what a test waits for is given up: far more than it takes on a slow and busy machine, and
less than the time that pytest gives a test."""

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

    def l2c(self, *arguments: str, **variables: str) -> CompletedProcess[str]:
        """Runs the command on this cluster, in this process: its driver from the first command on."""
        with (
            _set(self.environment() | variables),
            chdir(self.home),
            _captured() as (out, err),
            pytest.raises(SystemExit) as caught,
        ):
            main(arguments)
        return CompletedProcess(arguments, int(caught.value.code or 0), out.getvalue(), err.getvalue())

    @contextmanager
    def process(self, *command: str, log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command in a process of its own, which is killed when the context ends; what it says goes to the log."""
        environment = self.environment() | variables
        with (
            log.open("wb") as file,
            subprocess.Popen(command, cwd=self.home, env=environment, stdout=file, stderr=file) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

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


@contextmanager
def _set(variables: dict[str, str]) -> Iterator[None]:
    """The process's environment, as the cluster's users have theirs, while the context lasts."""
    with pytest.MonkeyPatch.context() as patch:
        # What Ray has read when it was imported.
        patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] != "0")
        # MLflow keeps the server that it is connected to in the environment and in a global.
        patch.setenv("MLFLOW_TRACKING_URI", "")
        for name, value in variables.items():
            patch.setenv(name, value)
        Config.initialize("")
        yield
    mlflow.set_tracking_uri(None)


@contextmanager
def _captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Stdout and stderr of the context; logged warnings are part of stderr."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        logged = logging.StreamHandler(err)
        logged.setLevel(logging.WARNING)
        logging.getLogger().addHandler(logged)
        try:
            yield out, err
        finally:
            logging.getLogger().removeHandler(logged)


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Does something in a thread while the context lasts, whose errors are raised when it ends."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        yield
    future.result()


def named(processes: Iterable[psutil.Process], name: str) -> list[psutil.Process]:
    """Processes with this in their names; some may end meanwhile."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if name in process.name():
                found.append(process)
    return found


def listening(processes: Iterable[psutil.Process]) -> set[tuple[str, str, int]]:
    """Name of the process, address and port of all that these listen on, but for those that end meanwhile."""
    mine = {process.pid: process for process in processes}
    found = set()
    # One look at the whole machine: a look by process would read the tables of the kernel once for each.
    for connection in psutil.net_connections("inet"):
        if connection.status == psutil.CONN_LISTEN and connection.pid in mine:
            with suppress(psutil.NoSuchProcess):
                found.add((mine[connection.pid].name(), *connection.laddr))
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
