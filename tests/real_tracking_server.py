"""A real MLflow server, which a test may stop or kill."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from free_ports import free_port
from real_cluster import wait_until


@dataclass(frozen=True)
class TrackingServer:
    address: str
    group: int
    """The process group of the server."""

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.group, number)


@contextmanager
def running_tracking_server(
    folder: Path, database: str | None = None, artifacts: str | None = None, **variables: str
) -> Iterator[TrackingServer]:
    """Serves a database and artifacts, in the folder unless told otherwise, on a free port, until the context ends.

    Args:
        database: its address.
        artifacts: address of the place that has them.
        variables: by which the server reaches it.
    """
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    database, artifacts = database or f"sqlite:///{folder}/mlflow.db", artifacts or str(folder)
    stores = ["--backend-store-uri", database, "--artifacts-destination", artifacts]
    log_file = folder / "server.log"
    with log_file.open("wb") as log:
        # Jobs of MLflow's own would start four more processes, which nothing here asks anything of.
        environment = os.environ | variables | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(
            [*command, *stores], env=environment, stdout=log, stderr=log, start_new_session=True, cwd=folder
        )
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, log_file.read_text()
        return _healthy(address)

    try:
        wait_until(answers)
        yield TrackingServer(address, process.pid)
    finally:
        # Its pid stays its own, dead or alive, until it is waited for.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _healthy(address: str) -> bool:
    try:
        return requests.get(f"{address}/health", timeout=5).ok
    except requests.RequestException:
        # Not yet, or too busy to say so within seconds.
        return False
