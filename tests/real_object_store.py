"""A real server of the S3 protocol: OpenStack Swift on a folder, which checks keys and signatures as S3 does."""

import getpass
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from real_cluster import wait_until

BUCKET = "pictures"

_KEY = "l2c:admin"
_SIGNED_WITH = "a-secret-of-this-test"
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
pipeline = catch_errors s3api tempauth proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:s3api]
use = egg:swift#s3api
location = {_REGION}
[filter:tempauth]
use = egg:swift#tempauth
user_{_KEY.replace(":", "_")} = {_SIGNED_WITH} .admin
"""


@dataclass(frozen=True)
class ObjectServer:
    endpoint: str

    def environment(self, secret: str = _SIGNED_WITH) -> dict[str, str]:
        """The variables by which S3's clients find the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": _REGION,
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": secret,
        }


@contextmanager
def running_object_server(folder: Path) -> Iterator[ObjectServer]:
    """Serves one empty bucket, `BUCKET`, on a free port, with the objects in the folder, until the context ends."""
    (folder / "devices" / "disk").mkdir(parents=True)
    (folder / "swift.conf").write_text(_SWIFT)
    *storage_ports, port = _free_ports(len(_KINDS) + 1)
    with ExitStack() as stack:
        for kind, its_port in zip(_KINDS, storage_ports, strict=True):
            _make_ring(folder, kind, its_port)
            stack.enter_context(_running(folder, kind, its_port, _STORAGE.format(kind=kind)))
        stack.enter_context(_running(folder, "proxy", port, _PROXY))
        server = ObjectServer(f"http://127.0.0.1:{port}")
        wait_until(lambda: _has_bucket(server), timeout=60)
        yield server


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in free]


def _make_ring(folder: Path, kind: str, port: int) -> None:
    """One copy of everything, on the one disk of the one server of this kind."""
    builder = str(folder / f"{kind}.builder")
    for command in (["create", "4", "1", "1"], ["add", f"r1z1-127.0.0.1:{port}/disk", "1"], ["rebalance"]):
        subprocess.run([_program("swift-ring-builder"), builder, *command], check=True, capture_output=True)


@contextmanager
def _running(folder: Path, kind: str, port: int, sections: str) -> Iterator[None]:
    config = folder / f"{kind}-server.conf"
    config.write_text(_COMMON.format(port=port, user=getpass.getuser(), folder=folder) + sections)
    with (folder / f"{kind}.log").open("wb") as log:
        command = [_program(f"swift-{kind}-server"), str(config), "--verbose"]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _has_bucket(server: ObjectServer) -> bool:
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=_REGION,
        aws_access_key_id=_KEY,
        aws_secret_access_key=_SIGNED_WITH,
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5),
    )
    try:
        client.create_bucket(Bucket=BUCKET)
    except (BotoCoreError, ClientError):
        return False
    return True
