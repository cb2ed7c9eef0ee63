"""A Ray head on this machine alone: loopback addresses, token authentication, and nothing left behind when it stops."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from ray.job_submission import JobSubmissionClient

from l2c_ray.errors import UnreachableError
from l2c_ray.storage.files import home, make_writable, read_text, write_text

_MARK = "L2C_HEAD"
"""Every process of a head inherits this variable with the head's id, and is known by it when the head stops."""

_START_SECONDS = 60
_STOP_SECONDS = 8


@dataclass(frozen=True)
class LocalHead:
    """A head that was started here."""

    id: str
    pid: int
    gcs_port: int
    dashboard_port: int
    serve_port: int
    """Free for Ray Serve's HTTP proxy when the head was started."""
    temp_dir: str

    @property
    def address(self) -> str:
        """What `$RAY_ADDRESS` is set to."""
        return f"127.0.0.1:{self.gcs_port}"

    @property
    def dashboard_url(self) -> str:
        """Where jobs are submitted to and applications deployed to."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def serve_url(self) -> str:
        return f"http://127.0.0.1:{self.serve_port}"

    def jobs(self) -> JobSubmissionClient:
        """A client for submitting jobs, which this process's own environment need not authenticate."""
        return JobSubmissionClient(self.dashboard_url, headers={"Authorization": f"Bearer {_token()}"})

    @property
    def alive(self) -> bool:
        return any(True for _ in processes(self.id))


def environment() -> dict[str, str]:
    """What a head, and every client of it, has to have in its environment."""
    python_folder = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": f"{python_folder}{os.pathsep}{os.environ.get('PATH', '')}",
        "L2C_HOME": str(home()),
        "RAY_AUTH_MODE": "token",
        # Ray's own switch for a node that binds to loopback and to nothing else.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    }


def find() -> LocalHead | None:
    """The head that `start` started under this home folder, if it is still alive."""
    path = _state_file()
    if not path.exists():
        return None
    head = LocalHead(**json.loads(read_text(path)))
    return head if head.alive else None


def start() -> LocalHead:
    """Starts a head on free ports, the usual ones where they are free, and waits until it takes jobs.

    Raises:
        UnreachableError: Ray did not come up; names the log.
    """
    make_writable(home())
    identity = uuid.uuid4().hex
    # Unix sockets live in it, and their paths may not be long.
    temp_dir = tempfile.mkdtemp(prefix="l2c-ray-", dir=tempfile.gettempdir())
    log = home() / "ray-head.log"
    dashboard, serve, gcs, client = (_free_port(port) for port in (8265, 8000, 6379, 20001))
    command = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    # Two workers are what the shipped configs ask for, also where a machine has one core.
    command += [f"--num-cpus={max(2, os.cpu_count() or 2)}", f"--temp-dir={temp_dir}", "--disable-usage-stats"]
    variables = environment() | {_MARK: identity}
    _token()
    with log.open("w") as output:
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=output, start_new_session=True)
    head = LocalHead(identity, process.pid, gcs, dashboard, serve, temp_dir)
    write_text(_state_file(), json.dumps(asdict(head)))
    if not _takes_jobs(head, process):
        stop(head)
        raise UnreachableError("Ray", "did not come up on this machine", f"see {log}")
    return head


def stop(head: LocalHead) -> None:
    """Ends every process of the head and removes its files."""
    deadline = time.monotonic() + _STOP_SECONDS
    if psutil.pid_exists(head.pid):
        os.kill(head.pid, signal.SIGTERM)
    while head.alive and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in processes(head.id):
        process.kill()
    while head.alive:
        time.sleep(0.1)
    shutil.rmtree(head.temp_dir, ignore_errors=True)
    _state_file().unlink(missing_ok=True)


def _state_file() -> Path:
    return home() / "local-head.json"


def _takes_jobs(head: LocalHead, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            head.jobs().list_jobs()
        except (ConnectionError, RuntimeError):
            time.sleep(0.5)
        else:
            return True
    return False


def _token() -> str:
    """What authenticates clients: as the environment says, or else Ray's own file of this user, made if missing."""
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return given
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not path.exists():
        make_writable(path.parent)
        write_text(path, secrets.token_hex(32))
        path.chmod(0o600)
    return read_text(path).strip()


def _free_port(usual: int) -> int:
    """The usual port if nobody listens on it, else any free one."""
    for port in (usual, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UnreachableError("127.0.0.1", "has no free port", "stop some servers")


def processes(identity: str) -> Iterator[psutil.Process]:
    """The living processes of the head of this id (on Linux, from /proc)."""
    mark = f"{_MARK}={identity}".encode()
    for process in psutil.process_iter():
        try:
            # Read raw: Ray's processes rename themselves, which leaves a hole that psutil takes for the end.
            marked = mark in Path(f"/proc/{process.pid}/environ").read_bytes()
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (OSError, psutil.Error):
            # It ended meanwhile, or is another user's.
            continue
