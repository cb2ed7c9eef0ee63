"""`l2c learn` where there is no cluster: on a Ray of the process's own, for its user alone and gone afterwards."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
from real_cluster import DIGITS, LOOPBACK, listening, set_options, wait_until

from l2c_ray.distributed import local_head

WITHIN_BUDGET = DIGITS.with_name("digits-budget.toml")

LOOK_SECONDS = 2.0
"""Between two looks at what listens, each of which takes a core half a second."""


def test_private_ray_is_this_users_alone_and_leaves_nothing(tmp_path: Path) -> None:
    identity = uuid.uuid4().hex
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "L2C_", "MLFLOW_"))}
    # Nor does this user have a token yet.
    mark = {"L2C_HOME": str(tmp_path), "L2C_HEAD": identity, "HOME": str(tmp_path)}
    # Within a budget, since a schedule of so few iterations that removes nothing, or everything, is warned of.
    options = set_options("cluster.workers=1", "sampler.steps=6", "training.iterations=6", "evaluation.images=2")
    with subprocess.Popen(
        [Path(sys.executable).parent / "l2c", "learn", str(WITHIN_BUDGET), *options],
        env=inherited | mark,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as learning:
        found: set[tuple[str, str, int]] = set()
        folders: set[Path] = set()
        while learning.poll() is None:
            processes = list(local_head.processes(identity))
            found |= listening(processes)
            folders |= {folder for process in processes for folder in private_folders(process)}
            time.sleep(LOOK_SECONDS)
        out, err = learning.communicate()
    assert learning.returncode == 0, err
    assert "registered as digits-dit-ddim-6 version 1" in out
    assert "WARN" not in err.upper()
    assert "token" not in err
    assert {"raylet", "ray::RayTrainWorker"} <= {name.partition(".")[0] for name, _, _ in found}
    assert [place for place in found if place[1] not in LOOPBACK] == []
    (folder,) = folders
    assert folder.name.startswith("l2c-ray-")
    assert not folder.exists()
    wait_until(lambda: not list(local_head.processes(identity)))


def private_folders(process: psutil.Process) -> list[Path]:
    """Folders above a raylet's socket that nobody but their owner may enter; none of another process."""
    try:
        command = process.cmdline() if process.name() == "raylet" else []
        sockets = [Path(part.partition("=")[2]) for part in command if part.startswith("--raylet_socket_name=")]
        return [folder for socket in sockets for folder in socket.parents if not folder.stat().st_mode & 0o077]
    except (OSError, psutil.Error):
        return []
