"""A finished run, which takes a while and which several modules look at."""

import pytest
from ray.job_submission import JobStatus
from real_cluster import Cluster, set_options
from real_runs import UNDISTURBED


@pytest.fixture(scope="session")
def undisturbed_log(cluster: Cluster) -> str:
    """The log of a job with two workers that ran to its end."""
    job = cluster.submit("python", "jobs/learn.py", "--config", "jobs/configs/digits.toml", *set_options(*UNDISTURBED))
    status, log = cluster.wait_for_job(job)
    assert status == JobStatus.SUCCEEDED, log
    return log
