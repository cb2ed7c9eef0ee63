"""A real Ray that a process starts for itself: nobody else gets in, it warns of nothing and leaves nothing."""

import os
import subprocess
import sys
from pathlib import Path

CONNECT = """
import os
from pathlib import Path

import ray

from l2c_ray.distributed import cluster

cluster.connect()
temp_dir = Path(ray._private.worker._global_node.get_temp_dir_path())
others = [folder for folder in temp_dir.parents if not folder.stat().st_mode & 0o077]
print(others[0])
"""


def test_a_private_ray_is_this_users_alone_warns_of_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", CONNECT],
        env=variables | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARN" not in done.stderr.upper()
    assert "token" not in done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    assert folder.name.startswith("l2c-ray-")
    assert not folder.exists()
