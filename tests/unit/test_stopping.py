"""SIGTERM to a real process, the first with a real MLflow run."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from real_cluster import wait_until

from l2c_ray.distributed.stopping import GRACE_SECONDS, stops_on_sigterm

STOPPED = "error: run mine: was stopped; go on with --set run.name=mine"

HANGS = """
import hashlib
from l2c_ray.distributed.stopping import stops_on_sigterm
from l2c_ray.registry import tracking
from l2c_ray.registry.tracking import TrackedRun

def broken():
    raise RuntimeError("the cluster is gone")

run = TrackedRun(tracking.connect(), "l2c", "mine", {})
with stops_on_sigterm("mine") as stopping:
    stopping.ask_by(broken)
    stopping.ask_by(lambda: print("asked", flush=True))
    stopping.ask_by(lambda: run.end("KILLED"))
    print("ready", flush=True)
    # For minutes no handler of a signal would have its turn.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""

STOPS = """
import time
from l2c_ray.distributed.stopping import GRACE_SECONDS, stops_on_sigterm
from l2c_ray.errors import LearningStoppedError

try:
    with stops_on_sigterm("mine") as stopping:
        stopping.check()
        print("ready", flush=True)
        while True:
            time.sleep(0.1)
            stopping.check()
except LearningStoppedError as error:
    # Longer than the time after which it would have been ended.
    time.sleep(GRACE_SECONDS + 1)
    print(error)
"""

STOPS_TOO_LATE = """
import time
from l2c_ray.distributed.stopping import GRACE_SECONDS, stops_on_sigterm

with stops_on_sigterm("mine") as stopping:
    stopping.ask_by(lambda: time.sleep(60))
    print("ready", flush=True)
    while not stopping.requested:
        time.sleep(0.01)
    # Into the time that is left to the action.
    time.sleep(GRACE_SECONDS + 0.4)
print("went on")
"""


@contextmanager
def running(script: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def status(client: MlflowClient) -> str:
    (run,) = client.search_runs([client.get_experiment_by_name("l2c").experiment_id])
    return str(run.info.status)


def test_process_that_does_not_stop_in_time_ends_with_its_run_marked(client: MlflowClient) -> None:
    with running(HANGS) as process:
        assert status(client) == "RUNNING"
        sent = time.monotonic()
        process.send_signal(signal.SIGTERM)
        # Long before Ray kills it, which a busy machine may not leave time for otherwise.
        wait_until(lambda: status(client) == "KILLED", timeout=GRACE_SECONDS)
        assert process.poll() is None
        out, err = process.communicate(timeout=30)
    # Ray kills after three seconds.
    assert GRACE_SECONDS <= time.monotonic() - sent < 3
    assert process.returncode == 1
    assert out == "asked\n"
    assert err.splitlines()[-1] == STOPPED
    assert status(client) == "KILLED"


def test_process_that_stops_in_time_ends_in_its_own_way() -> None:
    with running(STOPS) as process:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert out == "run mine: was stopped; go on with --set run.name=mine\n"
    assert err == ""
    assert process.returncode == 0


def test_action_that_hangs_does_not_keep_the_process_nor_does_one_that_is_being_ended_go_on() -> None:
    with running(STOPS_TOO_LATE) as process:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (out, err) == ("", f"{STOPPED}\n")
    assert process.returncode == 1


def test_signals_are_handled_as_before_once_the_context_has_ended() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stops_on_sigterm("mine"):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.set_wakeup_fd(-1) == -1
