"""SIGTERM to a real process, the first with a real MLflow run."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from mlflow import MlflowClient
from real_cluster import wait_until

from l2c_ray.distributed.stopping import stops_on_sigterm
from l2c_ray.errors import ConfigError

WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""After so many seconds Ray kills."""

STOPPED = "error: run mine: was stopped; go on with --set run.name=mine"

HANGS = """
import hashlib
from l2c_ray.distributed.stopping import stops_on_sigterm
{imports}

def broken():
    raise RuntimeError("the cluster is gone")

with stops_on_sigterm("mine") as stopping:
    stopping.ask_by(broken)
    stopping.ask_by(lambda: {action})
    print("ready", flush=True)
    # For minutes no handler of a signal would have its turn.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""

HAS_A_RUN = """
from l2c_ray.registry import tracking
from l2c_ray.registry.tracking import TrackedRun

run = TrackedRun(tracking.connect(), "l2c", "mine", {})
"""

STOPS = """
import threading
import time
from l2c_ray.distributed.stopping import stops_on_sigterm
from l2c_ray.errors import LearningStoppedError

try:
    with stops_on_sigterm("mine") as stopping:
        stopping.check()
        print("ready", flush=True)
        while True:
            time.sleep(0.1)
            stopping.check()
except LearningStoppedError as error:
    # Nobody is left who would end it.
    while any(thread.name == "stopping" for thread in threading.enumerate()):
        time.sleep(0.1)
    print(error)
"""

STOPS_TOO_LATE = """
import sys
import threading
import time
from l2c_ray.distributed.stopping import stops_on_sigterm

told = threading.Event()

class Telling:
    def write(self, text):
        sys.__stderr__.write(text)
        told.set()

    def flush(self):
        sys.__stderr__.flush()

sys.stderr = Telling()
with stops_on_sigterm("mine") as stopping:
    stopping.ask_by(lambda: time.sleep(60))
    print("ready", flush=True)
    # Into the time that is left to the action.
    told.wait()
print("went on")
"""


@contextmanager
def running(script: str, wait_seconds: int) -> Iterator[subprocess.Popen[str]]:
    command, environment = [sys.executable, "-c", script], os.environ | {WAIT: str(wait_seconds)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def status(client: MlflowClient) -> str:
    (run,) = client.search_runs([client.get_experiment_by_name("l2c").experiment_id])
    return str(run.info.status)


def test_run_is_marked_long_before_ray_kills_its_process(client: MlflowClient) -> None:
    with running(HANGS.format(imports=HAS_A_RUN, action='run.end("KILLED")'), wait_seconds=600) as process:
        assert status(client) == "RUNNING"
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: status(client) == "KILLED")
        assert process.poll() is None


def test_process_that_does_not_stop_in_time_ends_before_ray_kills_it() -> None:
    with running(HANGS.format(imports="", action='print("asked", flush=True)'), wait_seconds=2) as process:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert process.returncode == 1
    assert out == "asked\n"
    assert err.splitlines()[-1] == STOPPED


def test_process_that_stops_in_time_ends_in_its_own_way() -> None:
    with running(STOPS, wait_seconds=600) as process:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert out == "run mine: was stopped; go on with --set run.name=mine\n"
    assert err == ""
    assert process.returncode == 0


def test_hanging_action_does_not_keep_the_process_alive() -> None:
    with running(STOPS_TOO_LATE, wait_seconds=1) as process:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert (out, err) == ("", f"{STOPPED}\n")
    assert process.returncode == 1


@pytest.mark.parametrize(("wait", "grace"), [(None, 2.0), ("3", 2.0), ("30", 29.0), ("0", 0.0)])
def test_stop_has_a_second_less_than_ray_waits(wait: str | None, grace: float, monkeypatch: pytest.MonkeyPatch) -> None:
    if wait is None:
        monkeypatch.delenv(WAIT, raising=False)
    else:
        monkeypatch.setenv(WAIT, wait)
    with stops_on_sigterm("mine") as stopping:
        assert stopping.grace_seconds == grace


def test_wait_that_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WAIT, "soon")
    with pytest.raises(ConfigError, match=f"^{WAIT}: is no number of seconds"), stops_on_sigterm("mine"):
        pytest.fail("began")


def test_signals_are_handled_as_before_once_the_context_has_ended() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stops_on_sigterm("mine"):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.set_wakeup_fd(-1) == -1
