"""A head on a machine where others have the usual ports, and what is left when it stops."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from real_cluster import PATIENCE, REPOSITORY, named

from l2c_ray.distributed import local_head

USUAL_PORTS = {6379, 8000, 8265, 20001, 52365}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder in which no head is left when the test is over."""
    monkeypatch.setenv("L2C_HOME", str(tmp_path))
    yield tmp_path
    if head := local_head.find():
        local_head.stop(head)


@pytest.fixture
def usual_ports_taken() -> Iterator[None]:
    with ExitStack() as held:
        for port in USUAL_PORTS:
            # One that cannot be taken has somebody else.
            with suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


@pytest.mark.usefixtures("usual_ports_taken")
def test_failing_quickstart_says_how_to_stop_and_down_leaves_nothing(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "{}:{}".format(*server.getsockname())
    failed = quickstart("up", MLFLOW_TRACKING_URI=f"http://me:s3cret@{address}")
    head = local_head.find()
    assert head
    assert not {head.gcs_port, head.dashboard_port, head.serve_port} & USUAL_PORTS
    # The job ran, so the head's agent has a port of its own too; only the tracking server is missing.
    assert f"error: http://***@{address}: the tracking server does not answer" in failed.stdout
    assert failed.stdout.splitlines()[-1] == "not done; `make down` stops what is still up"
    assert failed.returncode == 1
    assert "s3cret" not in failed.stdout + failed.stderr + local_head.exports_file().read_text()

    started = psutil.Process(head.pid).children(recursive=True)
    # It renames itself and would outlive the others.
    assert named(started, "ray::DashboardAgent")
    assert quickstart("down").returncode == 0
    assert [process for process in started if lives(process)] == []
    assert not Path(head.temp_dir).exists()
    assert not {"local-head.json", "head.env"} & {path.name for path in home.iterdir()}


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def quickstart(action: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/quickstart.py", action],
        env=os.environ | variables,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
