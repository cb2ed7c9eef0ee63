"""A real MLflow server, which a test may stop or kill."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from real_cluster import wait_until


@dataclass(frozen=True)
class TrackingServer:
    address: str
    group: int
    """Of its processes."""

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.group, number)


@contextmanager
def running_tracking_server(folder: Path) -> Iterator[TrackingServer]:
    """Serves a database and artifacts in the folder, on a free port, until the context ends."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([*command, *stores], stdout=log, stderr=log, start_new_session=True, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _healthy(address), timeout=120)
        yield TrackingServer(address, process.pid)
    finally:
        # Its pid stays its own, dead or alive, until it is waited for.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _healthy(address: str) -> bool:
    try:
        return requests.get(f"{address}/health", timeout=5).ok
    except requests.ConnectionError:
        return False
