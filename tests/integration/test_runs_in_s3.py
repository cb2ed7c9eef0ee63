"""Learning with its checkpoints in S3: killed and gone on with as in a folder, through a server that dies."""

from pathlib import Path

import requests
from real_cluster import Cluster, meanwhile, wait_until
from real_object_store import ObjectServer
from real_runs import RUNS, checkpoints, in_s3, iterations, learning

from l2c_ray.distributed import local_head
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_store

NAME = "in-s3"


def test_run_in_s3_resumes_after_a_kill_and_survives_a_dead_server(
    cluster: Cluster, object_server: ObjectServer, tmp_path: Path
) -> None:
    store = open_store(RUNS, object_server.environment())
    name, log = f"run.name='{NAME}'", tmp_path / "log"
    with cluster.process(*learning(name), log=log, **in_s3(object_server)):
        wait_until(lambda: len(checkpoints(store, NAME)) > 1 and iterations(log.read_text()))
    done = iterations(log.read_text())[-1]
    few = learning(name, f"training.iterations={done + 100}", "training.checkpoint_every=20")
    with meanwhile(lambda: die_after_a_checkpoint(object_server, store)):
        finished = cluster.l2c(*few[1:], **in_s3(object_server))
    assert finished.returncode == 0, finished.stderr
    assert iterations(finished.stderr)[0] > 10
    assert cluster.mlflow_run(NAME).info.status == "FINISHED"
    assert f"{NAME}/settings.json" in store.names()
    assert not (cluster.home / "runs" / NAME).exists()
    assert object_server.secret not in told_of_runs(cluster)


def die_after_a_checkpoint(server: ObjectServer, store: ObjectStore) -> None:
    """The server is back as soon as it has started again, which takes it some checkpoints' time."""
    before = set(checkpoints(store, NAME))
    wait_until(lambda: set(checkpoints(store, NAME)) - before)
    with server.away():
        pass


def told_of_runs(cluster: Cluster) -> str:
    """Found through Ray's dashboard."""
    authorized = {"Authorization": f"Bearer {local_head.token()}"}
    told = requests.get(f"{cluster.head.dashboard_url}/api/train/v2/runs/v1", headers=authorized, timeout=30).text
    assert NAME in told
    return told
