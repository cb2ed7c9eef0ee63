"""`l2c learn` where there is no cluster: on a Ray of the process's own."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

from real_cluster import DIGITS, LOOPBACK, SMALL, listening, set_options, wait_until

from l2c_ray.distributed import local_head


def test_private_ray_listens_on_loopback_only_and_leaves_no_process_behind(tmp_path: Path) -> None:
    identity = uuid.uuid4().hex
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "L2C_", "MLFLOW_"))}
    mark = {"L2C_HOME": str(tmp_path), "L2C_HEAD": identity}
    options = set_options(*SMALL, "training.iterations=20", "evaluation.images=2")
    with subprocess.Popen(
        [Path(sys.executable).parent / "l2c", "learn", str(DIGITS), *options],
        env=inherited | mark,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as learning:
        found: set[tuple[str, str, int]] = set()
        while learning.poll() is None:
            found |= listening(local_head.processes(identity))
            # A look takes a core half a second.
            time.sleep(2)
        out, err = learning.communicate()
    assert learning.returncode == 0, err
    assert "registered as digits-dit-ddim-20 version 1" in out
    assert {"raylet", "ray::RayTrainWorker"} <= {name.partition(".")[0] for name, _, _ in found}
    assert [place for place in found if place[1] not in LOOPBACK] == []
    wait_until(lambda: not list(local_head.processes(identity)))
