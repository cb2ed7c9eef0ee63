"""`jobs/promote.py` and `l2c registry promote` on a real cluster: a version that passes the gate, one that fails."""

import json

import pytest
from lineages import add
from mlflow import MlflowClient
from ray.job_submission import JobStatus
from real_cluster import REPOSITORY, Cluster, set_options

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.registry import tracking
from l2c_ray.registry.aliases import history
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import holder_of
from l2c_ray.schedule import Provenance, Quality

NAME = "digits-dit-ddim-10"
CONFIG = REPOSITORY / "jobs" / "configs" / "promote-digits.toml"
SMALL = (
    "cluster.workers=1",
    "gate.images=32",
    "gate.batch_size=8",
    "gate.resamples=100",
    "gate.max_error=1.0",
    "gate.max_distance=1e4",
    f"promotion.name='{NAME}'",
    "promotion.alias='fast'",
)


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> MlflowClient:
    """A client of the cluster's registry with two versions: a fifth and a half of the steps are computed."""
    with pytest.MonkeyPatch.context() as patch:
        # MLflow puts the server that it is connected to into the environment, which other tests hand on.
        patch.setenv("MLFLOW_TRACKING_URI", "")
        client = tracking.connect()
        pipeline = Pipeline.load("digits-dit", steps=10)
        run = TrackedRun(client, "promotion", "promotion", {})
        for interval in (5, 2):
            provenance = Provenance(policy="fixed-interval", settings={"interval": interval})
            plain = make_schedule(pipeline, fixed_interval(10, len(pipeline.model.units), interval), provenance)
            add(client, run, plain.with_quality(Quality(protocol="test", metrics={"mse": 0.1 / interval})))
    return client


def test_job_moves_the_alias_to_the_version_that_the_rule_chooses(cluster: Cluster, client: MlflowClient) -> None:
    job = cluster.submit("jobs/promote.py", "--config", str(CONFIG), *set_options(*SMALL))
    status, log = cluster.wait_for_job(job)
    assert status == JobStatus.SUCCEEDED, log
    assert holder_of(client, NAME, "fast") == 1
    move = history(client, NAME)[-1]
    assert (move.alias, move.before, move.after) == ("fast", None, 1)
    assert move.why == "the best version of each tier, by the rule"
    verdict = json.loads(client.get_model_version(NAME, "1").tags["gate.fast"])
    assert verdict["passed"]
    assert [check["name"] for check in verdict["checks"]] == [
        "weights",
        "sampler",
        "error",
        "distance",
        "skips",
        "gain",
    ]
    # Eight of ten steps, 24 units each, in each of the four batches.
    assert "192 of 192 planned skips in each of 4 batches" in log


def test_version_over_a_limit_moves_nothing_and_ends_with_code_3(cluster: Cluster, client: MlflowClient) -> None:
    before = history(client, NAME)
    options = ("--alias", "champion", "--why", "a try", "--config", str(CONFIG), "--json")
    done = cluster.l2c("registry", "promote", NAME, "2", *options, *set_options(*SMALL[:-1], "gate.max_error=1e-9"))
    assert done.returncode == 3, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(f"error: gate: {NAME} version 2 for champion: error ")
    assert "% over" in line
    assert history(client, NAME) == before
    (verdict,) = json.loads(done.stdout)["verdicts"]
    failed = [check["name"] for check in verdict["checks"] if not check["passed"]]
    assert failed[0] == "error"
    assert not json.loads(client.get_model_version(NAME, "2").tags["gate.champion"])["passed"]
