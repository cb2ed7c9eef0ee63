"""`l2c learn` while the tracking server or the storage of its checkpoints is away for good."""

import signal
from pathlib import Path

from mlflow import MlflowClient
from real_cluster import PATIENCE, Cluster, wait_until
from real_object_store import ObjectServer
from real_runs import RUNS, checkpoints, in_s3, iterations, learning
from real_tracking_server import running_tracking_server

from l2c_ray.storage.opening import open_store


def test_tracking_server_that_goes_away_costs_nothing(cluster: Cluster, tmp_path: Path) -> None:
    command = learning("training.iterations=40", "run.name='untracked'")
    with running_tracking_server(tmp_path) as server:
        there = {"MLFLOW_TRACKING_URI": server.address, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
        with cluster.process(*command, log=tmp_path / "log", **there) as driver:
            # Its run is there by then, and nothing is learned yet.
            wait_until(cluster.train_workers)
            server.signal(signal.SIGKILL)
            end = driver.wait(timeout=PATIENCE)
    log = (tmp_path / "log").read_text()
    assert end == 1, log
    assert "Learning goes on; its progress is logged later" in log
    assert "learning 40/40" in log
    assert cluster.checkpoints("untracked")
    last = log.splitlines()[-1]
    assert last.startswith(f"error: {server.address}: the tracking server does not answer")
    assert "`l2c registry push` takes them there" in last

    with running_tracking_server(tmp_path) as server:
        pushed = cluster.l2c("registry", "push", MLFLOW_TRACKING_URI=server.address)
        assert pushed.returncode == 0, pushed.stderr
        assert pushed.stdout.startswith("registered as digits-dit-ddim-20 version 1")
        client = MlflowClient(server.address)
        (run,) = client.search_runs([client.get_experiment_by_name("l2c").experiment_id])
        assert run.info.status == "FINISHED"
        assert {metric.step for metric in client.get_metric_history(run.info.run_id, "loss")} == set(range(1, 41))
        assert "frontier.png" in {file.path for file in client.list_artifacts(run.info.run_id)}
        again = cluster.l2c("registry", "push", MLFLOW_TRACKING_URI=server.address)
        assert again.stdout == "nothing is kept that the tracking server has not got\n"


def test_run_resumes_after_an_outage_of_the_object_server_ended_it(
    cluster: Cluster, object_server: ObjectServer, tmp_path: Path
) -> None:
    store = open_store(RUNS, object_server.environment())
    once = ("run.name='cut-off'", "cluster.max_failures=0")
    with cluster.process(*learning(*once), log=tmp_path / "log", **in_s3(object_server)) as cut:
        wait_until(lambda: len(checkpoints(store, "cut-off")) > 1)
        with object_server.away():
            assert cut.wait(timeout=PATIENCE) == 1
    last = (tmp_path / "log").read_text().strip().splitlines()[-1]
    assert last.startswith("error: run cut-off: failed on a worker (")
    assert "does not answer" in last
    assert cluster.mlflow_run("cut-off").info.status == "FAILED"

    few = learning(*once, "training.iterations=200", "training.checkpoint_every=100")
    again = cluster.l2c(*few[1:], **in_s3(object_server))
    assert again.returncode == 0, again.stderr
    assert iterations(again.stderr)[0] > 10
