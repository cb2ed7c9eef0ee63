"""A real server of the S3 protocol: OpenStack Swift on a folder, which checks keys and signatures as S3 does."""

import getpass
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from free_ports import free_ports
from real_cluster import wait_until

BUCKET = "pictures"

_KEY = "l2c:admin"
_SECRET = re.compile(rb"a-secret-[0-9a-f]{16}")
_REGION = "us-east-1"
_KINDS = ("account", "container", "object")

_SWIFT = """
[swift-hash]
swift_hash_path_suffix = l2c
[storage-policy:0]
name = only
default = yes
"""
_COMMON = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
"""
_STORAGE = """
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
_PROXY = f"""
[pipeline:main]
pipeline = catch_errors s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:s3api]
use = egg:swift#s3api
location = {_REGION}
[filter:slo]
use = egg:swift#slo
[filter:tempauth]
use = egg:swift#tempauth
user_{_KEY.replace(":", "_")} = {{secret}} .admin
"""


@dataclass
class ObjectServer:
    port: int
    secret: str
    """Its clients' key; no other server has the same."""
    disk: Path
    """With its objects, each a file somewhere below."""
    proxy: subprocess.Popen[bytes]
    """Who answers clients."""
    start_proxy: Callable[[], subprocess.Popen[bytes]]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, secret: str | None = None, port: int | None = None) -> dict[str, str]:
        """The variables by which S3's clients find the server, or what forwards to it from another port."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_REGION": _REGION,
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": secret or self.secret,
        }

    def client(self) -> boto3.client:
        """As someone else's, one that does not ask twice."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=_REGION,
            aws_access_key_id=_KEY,
            aws_secret_access_key=self.secret,
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5),
        )

    @contextmanager
    def away(self) -> Iterator[None]:
        """Killed, and back on the same port when the context ends."""
        self.proxy.kill()
        self.proxy.wait()
        try:
            yield
        finally:
            self.proxy = self.start_proxy()
            wait_until(lambda: _has_bucket(self))

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Takes connections and says nothing until the context ends."""
        self.proxy.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.proxy.send_signal(signal.SIGCONT)


@contextmanager
def running_object_server(folder: Path) -> Iterator[ObjectServer]:
    """Serves one empty bucket, `BUCKET`, on a free port, with the objects in the folder, until the context ends."""
    (folder / "devices" / "disk").mkdir(parents=True)
    (folder / "swift.conf").write_text(_SWIFT)
    *storage_ports, port = free_ports(len(_KINDS) + 1)
    with ExitStack() as stack:
        for kind, its_port in zip(_KINDS, storage_ports, strict=True):
            _make_ring(folder, kind, its_port)
            stack.callback(_kill, _start(folder, kind, its_port, _STORAGE.format(kind=kind)))
        secret = f"a-secret-{secrets.token_hex(8)}"
        start = partial(_start, folder, "proxy", port, _PROXY.format(secret=secret))
        server = ObjectServer(port, secret, folder / "devices" / "disk" / "objects", start(), start)
        stack.callback(lambda: _kill(server.proxy))
        wait_until(lambda: _has_bucket(server))
        yield server


def _make_ring(folder: Path, kind: str, port: int) -> None:
    """One copy of everything, on the one disk of the one server of this kind."""
    builder = str(folder / f"{kind}.builder")
    for command in (["create", "4", "1", "1"], ["add", f"r1z1-127.0.0.1:{port}/disk", "1"], ["rebalance"]):
        subprocess.run([_program("swift-ring-builder"), builder, *command], check=True, capture_output=True)


def _start(folder: Path, kind: str, port: int, sections: str) -> subprocess.Popen[bytes]:
    config = folder / f"{kind}-server.conf"
    config.write_text(_COMMON.format(port=port, user=getpass.getuser(), folder=folder) + sections)
    with (folder / f"{kind}.log").open("ab") as log:
        command = [_program(f"swift-{kind}-server"), str(config), "--verbose"]
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _has_bucket(server: ObjectServer) -> bool:
    try:
        server.client().create_bucket(Bucket=BUCKET)
    except ClientError as error:
        # It was made before the server went away.
        return error.response["Error"]["Code"] == "BucketAlreadyOwnedByYou"
    except BotoCoreError:
        return False
    return True


def files_with_secrets(folder: Path) -> list[Path]:
    """Files below the folder that show the key of a server of this module."""
    return [path for path in folder.rglob("*") if path.is_file() and _shows_secret(path)]


def _shows_secret(path: Path) -> bool:
    try:
        return _SECRET.search(path.read_bytes()) is not None
    except FileNotFoundError:
        # Whoever writes here goes on.
        return False
