"""A user that the machine does not know, as in a container under a number of its own, with and without a folder."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNKNOWN = 54321

REGISTER = """
from l2c_ray.registry import tracking
from lineages import add
from registry_factories import measured
from l2c_ray.registry.aliases import history
from l2c_ray.registry.tracking import TrackedRun
client = tracking.connect()
version = add(client, TrackedRun(client, "experiment", "first", {}), measured())
print(version.uri, *(move.who for move in history(client, version.name)))
"""

AS_UNKNOWN = ["unshare", "--user", f"--map-user={UNKNOWN}", f"--map-group={UNKNOWN}"]
"""Runs a command under the number, with the rights that this process has."""


@pytest.fixture(autouse=True)
def _needs_user_namespaces() -> None:
    if shutil.which("unshare") is None or subprocess.run([*AS_UNKNOWN, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody be another user")


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python with nothing in the environment but these."""
    command = [*AS_UNKNOWN, sys.executable, "-c", code]
    return subprocess.run(command, env=variables, cwd="/", capture_output=True, text=True, timeout=300)


def test_unknown_user_without_a_folder_gets_one_line() -> None:
    done = run("from l2c_ray.cli.main import main; main(['registry', 'list'])")
    assert done.returncode == 2
    told = done.stderr.splitlines()[-1]
    assert told == (
        "error: L2C_HOME: names no folder, and this user has no home directory; set it to a folder you may write"
    )


def test_unknown_user_with_a_folder_registers_under_its_number(registry_home: Path) -> None:
    tests = Path(__file__).parent
    done = run(REGISTER, L2C_HOME=str(registry_home), PYTHONPATH=f"{tests}:{tests.parent}")
    assert done.returncode == 0, done.stderr
    uri, who = done.stdout.split()
    assert uri.startswith("models:/small-")
    assert who.startswith(f"{UNKNOWN}@")
