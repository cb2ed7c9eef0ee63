"""A Ray head on this machine alone: loopback addresses, token authentication, and nothing left behind when it stops."""

import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from l2c_ray.distributed.temporary_folder import make_temporary_folder, temp_dir_in
from l2c_ray.errors import StorageError, UnreachableError
from l2c_ray.printable import masked
from l2c_ray.registry.tracking import tracking_uri
from l2c_ray.storage.environment import normalized, without_proxy
from l2c_ray.storage.files import from_root, home, locked, make_writable, read_text, write_text

_MARK = "L2C_HEAD"
"""Every process of a head inherits this variable with the head's folder."""

_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS")
"""Variables in which Ray's own clients look for a cluster; the second overrides even an `--address`."""

_START_SECONDS = 60
_STOP_SECONDS = 8


class LocalHead(BaseModel):
    """A head that was started on this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    pid: int
    gcs_port: int
    dashboard_port: int
    serve_port: int
    """Port for Ray Serve's HTTP proxy, free when the head was started."""
    temp_dir: str
    """The head's own folder, by which its processes are known."""

    @property
    def address(self) -> str:
        """Value of `$RAY_ADDRESS` for clients."""
        return f"127.0.0.1:{self.gcs_port}"

    @property
    def dashboard_url(self) -> str:
        """URL to which jobs are submitted and applications deployed."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def serve_url(self) -> str:
        return f"http://127.0.0.1:{self.serve_port}"

    @property
    def alive(self) -> bool:
        return any(True for _ in processes(self.temp_dir))


def environment() -> dict[str, str]:
    """Variables of a head and its clients: the environment here, without the addresses of other clusters."""
    inherited = {name: value for name, value in os.environ.items() if name not in _ADDRESSES}
    path = f"{_programs()}{os.pathsep}{os.environ.get('PATH', '')}"
    return inherited | normalized(inherited) | {"PATH": path} | _settings()


def find() -> LocalHead | None:
    """The head that `start` started under this home folder. The files of one that has died are removed.

    Raises:
        StorageError: the head was started by another version of the package.
    """
    path = _state_file()
    if not path.exists():
        return None
    try:
        head = LocalHead.model_validate_json(read_text(path))
    except ValidationError as error:
        raise StorageError(
            str(path),
            "does not describe a head of this version",
            "stop that head with the version that started it; if it has ended, delete the file",
        ) from error
    if head.alive:
        return head
    _remove_files(head)
    return None


def start() -> LocalHead:
    """Starts a head on free ports, the usual ones where they are free, and waits until it takes jobs.

    Raises:
        UnreachableError: Ray did not come up; names the log.
    """
    make_writable(home())
    with one_start_at_a_time():
        return _start(log=home() / "ray-head.log")


def _start(log: Path) -> LocalHead:
    folder = make_temporary_folder()
    dashboard, serve, gcs, client, agent = _free_ports(8265, 8000, 6379, 20001, 52365)
    command = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    # Any port for a worker, since another head would take its own from the same usual range.
    command += [f"--dashboard-agent-listen-port={agent}", "--min-worker-port=0", "--max-worker-port=0"]
    # Two workers are what the shipped configs ask for, also where a machine has one core.
    command += [f"--num-cpus={max(2, os.cpu_count() or 2)}", "--disable-usage-stats"]
    command += [f"--temp-dir={temp_dir_in(folder)}"]
    variables = environment() | {_MARK: str(folder)}
    token()
    with log.open("w") as output:
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=output, start_new_session=True)
    head = LocalHead(pid=process.pid, gcs_port=gcs, dashboard_port=dashboard, serve_port=serve, temp_dir=str(folder))
    write_text(_state_file(), head.model_dump_json())
    write_text(exports_file(), exports(head))
    if not _takes_jobs(head, agent, process):
        stop(head)
        raise UnreachableError("Ray", "did not come up on this machine", f"see {log}")
    return head


@contextmanager
def one_start_at_a_time() -> Iterator[None]:
    """Holds a lock of the user, since two heads that start at the same time would find the same ports free.

    Raises:
        StorageError: the file of the lock cannot be made.
    """
    with locked(_folder_of_the_user() / "l2c-head-start.lock"):
        yield


def _folder_of_the_user() -> Path:
    """A folder where nobody else may write: Ray's, which has the user's token, or `home()` if there is none."""
    with suppress(OSError, RuntimeError):
        folder = Path.home() / ".ray"
        folder.mkdir(mode=0o700, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    return home()


def stop(head: LocalHead) -> None:
    """Ends every process of the head and removes its files."""
    # A raylet that ends waits for actors that nobody owns, and some of Ray's own do not end when they are asked to.
    for process in processes(head.temp_dir):
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::"):
                process.kill()
    # Ray's launcher ends the others in order; by now its pid alone may be another program's.
    _terminate([process for process in processes(head.temp_dir) if process.pid == head.pid])
    # Agents outlive their raylet by a minute.
    _terminate(list(processes(head.temp_dir)))
    while left := list(processes(head.temp_dir)):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.1)
    _remove_files(head)


def processes(temp_dir: str) -> Iterator[psutil.Process]:
    """The living processes of the head that has this folder (on Linux, from /proc).

    Some of Ray's rename themselves so thoroughly that no environment can be read any more; they have logs open.
    """
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and (_is_marked(process, temp_dir) or _uses(process, temp_dir)):
                yield process
        except (OSError, psutil.Error):
            # It ended meanwhile, or is another user's.
            continue


def _is_marked(process: psutil.Process, temp_dir: str) -> bool:
    # Read raw: a name that is put over the environment leaves a hole in it, which psutil takes for the end.
    return f"{_MARK}={temp_dir}\0".encode() in Path(f"/proc/{process.pid}/environ").read_bytes()


def _uses(process: psutil.Process, temp_dir: str) -> bool:
    # A reader of its logs is none of its processes.
    return process.name().startswith("ray") and any(
        Path(file.path).is_relative_to(temp_dir) for file in process.open_files()
    )


def _terminate(ending: list[psutil.Process]) -> None:
    """Asks the processes to end, and gives them some seconds."""
    for process in ending:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    while any(_lives(process) for process in ending) and time.monotonic() < deadline:
        time.sleep(0.2)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def exports_file() -> Path:
    """The file that a shell sources to reach the head; it exists as long as the head and holds no secret."""
    return home() / "head.env"


def token_file() -> Path | None:
    """The file with the token of clients, by default Ray's own for this user; None if `$RAY_AUTH_TOKEN` is set.

    Raises:
        StorageError: there is neither `$RAY_AUTH_TOKEN_PATH` nor a home directory.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    if given := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return from_root(Path(given))
    try:
        return Path.home() / ".ray" / "auth_token"
    except RuntimeError as error:
        problem = "names no file, and this user has no home directory"
        raise StorageError("RAY_AUTH_TOKEN_PATH", problem, "set it to a file for Ray's token") from error


def token() -> str:
    """The token that authenticates clients; its file is made if missing.

    Raises:
        StorageError: the file cannot be read or written.
    """
    path = token_file()
    if path is None:
        return os.environ["RAY_AUTH_TOKEN"]
    if not path.exists():
        write_text(path, secrets.token_hex(32), mode=0o600)
    return read_text(path).strip()


def _programs() -> Path:
    """The folder of the programs `ray`, `serve` and `l2c`."""
    return Path(sys.executable).parent


def _settings() -> dict[str, str]:
    return {
        "L2C_HOME": str(home()),
        "RAY_AUTH_MODE": "token",
        # Ray's own switch for a node that binds to loopback and to nothing else.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    }


def exports(head: LocalHead) -> str:
    """Shell commands that make the head reachable."""
    values = _settings() | dict(zip(_ADDRESSES, (head.address, head.dashboard_url, head.dashboard_url), strict=True))
    # Secrets stay where the user has them: in a file of their own, or in the environment.
    if path := token_file():
        values["RAY_AUTH_TOKEN_PATH"] = str(path)
    if (uri := tracking_uri()) == masked(uri):
        values["MLFLOW_TRACKING_URI"] = uri
    values |= without_proxy(os.environ)
    lines = [f'export PATH={shlex.quote(str(_programs()))}:"$PATH"']
    lines += [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _takes_jobs(head: LocalHead, agent_port: int, process: subprocess.Popen[bytes]) -> bool:
    """Whether the dashboard, which takes jobs, and the agent, which runs them, answer in time."""
    import requests

    authorized = {"Authorization": f"Bearer {token()}"}
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(requests.RequestException):
            dashboard = requests.get(f"{head.dashboard_url}/api/jobs/", headers=authorized, timeout=5)
            agent = requests.get(f"http://127.0.0.1:{agent_port}/api/local_raylet_healthz", timeout=5)
            if dashboard.ok and agent.text == "success":
                return True
        time.sleep(0.5)
    return False


def _remove_files(head: LocalHead) -> None:
    shutil.rmtree(head.temp_dir, ignore_errors=True)
    exports_file().unlink(missing_ok=True)
    _state_file().unlink(missing_ok=True)


def _state_file() -> Path:
    return home() / "local-head.json"


def _free_ports(*usual: int) -> list[int]:
    """A port for each usual one: itself if nobody listens on it, else any free one; no two are the same."""
    with ExitStack() as held:
        return [_bind(held.enter_context(socket.socket()), port) for port in usual]


def _bind(probe: socket.socket, usual: int) -> int:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for port in (usual, 0):
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise UnreachableError("127.0.0.1", "has no free port", "stop some servers")
