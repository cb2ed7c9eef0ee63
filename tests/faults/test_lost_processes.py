"""Runs whose processes are lost where it costs most to show that nothing else is."""

import signal
from pathlib import Path

import psutil
from real_cluster import PATIENCE, Cluster, meanwhile, wait_until
from real_object_store import ObjectServer
from real_runs import RUNS, checkpoints, in_s3, iterations, learning

from l2c_ray.storage.opening import open_store


def test_lost_sampling_worker_is_replaced(cluster: Cluster) -> None:
    def lose_one() -> None:
        (lost,) = wait_until(lambda: _sampling(cluster))
        lost.send_signal(signal.SIGKILL)
        wait_until(lambda: set(_sampling(cluster)) - {lost})

    with meanwhile(lose_one):
        cluster.learn("run.name='lost'", "training.iterations=2", "evaluation.images=32")
    assert cluster.mlflow_run("lost").info.status == "FINISHED"


def _sampling(cluster: Cluster) -> list[psutil.Process]:
    """The processes that sample images just now."""
    return cluster.processes("ShardSampler.sample")


def test_run_in_s3_is_gone_on_with_after_a_stop_and_a_kill(
    cluster: Cluster, object_server: ObjectServer, tmp_path: Path
) -> None:
    store = open_store(RUNS, object_server.environment())
    name, log = "run.name='moved-on'", tmp_path / "log"
    seldom = learning(name, "training.checkpoint_every=1000")
    with cluster.process(*seldom, log=log, **in_s3(object_server)) as stopped:
        wait_until(lambda: iterations(log.read_text()))
        stopped.send_signal(signal.SIGTERM)
        assert stopped.wait(timeout=PATIENCE) == 1
    told = log.read_text()
    assert "was stopped; go on with --set run.name=moved-on" in told
    assert len(checkpoints(store, "moved-on")) == 1
    assert cluster.mlflow_run("moved-on").info.status == "KILLED"

    done = iterations(told)[-1]
    with cluster.process(*learning(name), log=log, **in_s3(object_server)):
        wait_until(lambda: iterations(log.read_text()))
        assert iterations(log.read_text())[0] >= done
        wait_until(lambda: len(checkpoints(store, "moved-on")) > 1)
    few = learning(name, f"training.iterations={iterations(log.read_text())[-1] + 400}")
    finished = cluster.l2c(*few[1:], **in_s3(object_server))
    assert finished.returncode == 0, finished.stderr
    assert iterations(finished.stderr)[0] > done
    assert cluster.mlflow_run("moved-on").info.status == "FINISHED"
