"""`l2c search` while what it keeps its trials and results in is away, restarted or full."""

import json
import signal
import time
from pathlib import Path

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from real_cluster import PATIENCE, Cluster, set_options, wait_until
from real_database import running_database
from real_object_store import BUCKET, running_object_server
from real_studies import SEARCH, SLOWER, TINY, assert_each_but_once, finished, journal
from real_tracking_server import running_tracking_server
from sqlalchemy import NullPool

from l2c_ray.search.storage import STORAGE_VARIABLE
from l2c_ray.storage.opening import open_store


def search(*overrides: str) -> list[str]:
    return ["l2c", "search", str(SEARCH), *set_options(*TINY, *SLOWER, *overrides)]


def test_two_drivers_share_a_database_that_is_restarted_under_them(cluster: Cluster, tmp_path: Path) -> None:
    """Study and tracking server in PostgreSQL, checkpoints and artifacts in S3, all by environment variables."""
    command = search("study.trials=4", "study.lease_seconds=30", "study.parallel=1", "study.name='shared'")
    with (
        running_database() as database,
        running_object_server(tmp_path / "swift") as objects,
        running_tracking_server(
            tmp_path, database.make("mlflow"), f"s3://{BUCKET}/artifacts", **objects.environment()
        ) as server,
    ):
        url = database.make("studies")
        # Without a pool, whose connections the restart would break.
        storage = RDBStorage(url, engine_kwargs={"poolclass": NullPool})

        def trials() -> list[FrozenTrial]:
            there = "shared" in optuna.get_all_study_names(storage)
            return optuna.load_study(study_name="shared", storage=storage).trials if there else []

        variables = {
            STORAGE_VARIABLE: url,
            "L2C_STORAGE": f"s3://{BUCKET}/runs",
            "MLFLOW_TRACKING_URI": server.address,
            **objects.environment(),
        }
        logs = [tmp_path / "first", tmp_path / "second"]
        with (
            cluster.process(*command, log=logs[0], **variables) as first,
            cluster.process(*command, log=logs[1], **variables) as second,
        ):
            wait_until(lambda: finished(trials()) >= 1)
            database.stop()
            database.start()
            ends = (first.wait(timeout=PATIENCE), second.wait(timeout=PATIENCE))
        assert ends == (0, 0), "".join(log.read_text() for log in logs)
        assert_each_but_once(trials(), 4)
        assert len({trial.user_attrs["driver"] for trial in trials()}) == 2
        best = optuna.load_study(study_name="shared", storage=storage).best_trials
        told = cluster.l2c("registry", "list", "--json", **variables)
        versions = json.loads(told.stdout)
        # Of several trials that came to the same cost and error one is enough.
        assert versions
        assert {version["sha256"] for version in versions} <= {trial.user_attrs["sha256"] for trial in best}
        for version in versions:
            name = f"{version['name']}/{version['version']}"
            schedule = json.loads(cluster.l2c("registry", "export", name, **variables).stdout)
            assert schedule["sha256"] == version["sha256"]
        store = open_store(f"s3://{BUCKET}", objects.environment())
        assert {name.split("/")[0] for name in store.names()} == {"artifacts", "runs"}


def test_storage_that_stays_away_ends_the_search_and_costs_no_trial(cluster: Cluster, tmp_path: Path) -> None:
    command = search("study.trials=2", "study.parallel=1", "study.name='cut-off'")
    with running_object_server(tmp_path / "swift") as objects:
        variables = {"L2C_STORAGE": f"s3://{BUCKET}/runs", **objects.environment()}
        store = open_store(f"s3://{BUCKET}/runs", objects.environment())
        with cluster.process(*command, log=tmp_path / "log", **variables) as driver:
            wait_until(lambda: any(name.endswith("state.safetensors") for name in store.names()))
            with objects.away():
                assert driver.wait(timeout=PATIENCE) == 1
        assert "S3 does not answer" in (tmp_path / "log").read_text().strip().splitlines()[-1]
        done = cluster.l2c(*command[1:], **variables)
        assert done.returncode == 0, done.stderr
    assert_each_but_once(journal(cluster, "cut-off"), 2)


def test_full_disk_ends_the_search_which_goes_on_when_there_is_room(cluster: Cluster, small_disk: Path) -> None:
    command = search("study.trials=1", "study.parallel=1", "study.name='full-disk'")
    filler = small_disk / "filler"
    # All but a page.
    filler.write_bytes(bytes((1 << 20) - 4096))
    full = cluster.l2c(*command[1:], L2C_STORAGE=str(small_disk))
    assert full.returncode == 2
    last = full.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {small_disk}")
    assert "No space left" in last
    filler.unlink()
    done = cluster.l2c(*command[1:], L2C_STORAGE=str(small_disk))
    assert done.returncode == 0, done.stderr
    assert_each_but_once(journal(cluster, "full-disk"), 1)


def test_short_outage_of_storage_is_waited_out_and_results_are_kept(cluster: Cluster, tmp_path: Path) -> None:
    command = search("study.trials=2", "study.parallel=1", "study.name='outages'")
    with running_object_server(tmp_path / "swift") as objects:
        variables = {"L2C_STORAGE": f"s3://{BUCKET}/runs", **objects.environment()}
        store = open_store(f"s3://{BUCKET}/runs", objects.environment())
        with running_tracking_server(tmp_path) as server:
            there = variables | {"MLFLOW_TRACKING_URI": server.address}
            with cluster.process(*command, log=tmp_path / "log", **there) as driver:
                wait_until(lambda: any(name.endswith("state.safetensors") for name in store.names()))
                with objects.away():
                    time.sleep(20)
                server.signal(signal.SIGKILL)
                assert driver.wait(timeout=PATIENCE) == 1
        last = (tmp_path / "log").read_text().strip().splitlines()[-1]
        assert last.startswith(f"error: {server.address}")
        assert "l2c registry push" in last
    assert_each_but_once(journal(cluster, "outages"), 2)
    with running_tracking_server(tmp_path) as server:
        before = json.loads(cluster.l2c("registry", "list", "--json", MLFLOW_TRACKING_URI=server.address).stdout)
        pushed = cluster.l2c("registry", "push", MLFLOW_TRACKING_URI=server.address)
        assert pushed.returncode == 0, pushed.stderr
        after = json.loads(cluster.l2c("registry", "list", "--json", MLFLOW_TRACKING_URI=server.address).stdout)
    assert not before
    assert {version["sha256"] for version in after} <= {
        trial.user_attrs["sha256"] for trial in journal(cluster, "outages")
    }
    assert after
