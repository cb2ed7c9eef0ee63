"""A shell that reaches the head by what it has written down."""

import os
import subprocess

from real_cluster import PATIENCE, Cluster

from l2c_ray.distributed import local_head


def test_shell_that_sources_the_exports_reaches_the_head(cluster: Cluster) -> None:
    script = (
        f". {local_head.exports_file()} && ray job submit -- echo from the shell && serve status && l2c registry list"
    )
    done = subprocess.run(
        ["sh", "-c", script],
        env={"PATH": "/usr/bin:/bin", "HOME": os.environ["HOME"]},
        cwd=cluster.home,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "from the shell" in done.stdout
    assert "compute share" in done.stdout
