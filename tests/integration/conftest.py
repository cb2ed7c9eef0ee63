"""A finished run, which takes a while and which several modules look at."""

import pytest
from ray.job_submission import JobStatus
from real_cluster import Cluster, set_options, wait_until
from real_runs import RESUMED, ResumedRun, iterations

from l2c_ray.storage.tensors import read_tensors


@pytest.fixture(scope="session")
def resumed(cluster: Cluster) -> ResumedRun:
    """A run on two workers: its first job was stopped before any checkpoint was due, the second came to the end."""
    config = ("--config", "jobs/configs/digits.toml")
    # So many that a fast machine does not come to their end before the stop.
    many = set_options(*RESUMED, "training.iterations=4000", "training.checkpoint_every=4000")
    first = cluster.submit("python", "jobs/learn.py", *config, *many)
    wait_until(lambda: "learning 2" in cluster.jobs.get_job_logs(first))
    assert not cluster.checkpoints("resumed")
    cluster.jobs.stop_job(first)
    assert cluster.wait_for_job(first)[0] == JobStatus.STOPPED
    (checkpoint,) = cluster.checkpoints("resumed")
    done = int(read_tensors(checkpoint)["iteration"])
    wait_until(lambda: cluster.mlflow_run("resumed").info.status == "KILLED")

    # How long a run goes on may change from one session to the next.
    second = cluster.submit("jobs/learn.py", *config, *set_options(*RESUMED, f"training.iterations={done + 40}"))
    status, log = cluster.wait_for_job(second)
    assert status == JobStatus.SUCCEEDED, log
    assert iterations(log)[0] > done
    return ResumedRun(done, done + 40, log)
