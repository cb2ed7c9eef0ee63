"""`l2c search` on a real cluster: a frontier and its versions, and the exact number of trials, whatever dies."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from ray.job_submission import JobStatus
from real_cluster import PATIENCE, REPOSITORY, Cluster, set_options, wait_until
from real_database import running_database
from real_object_store import BUCKET, running_object_server
from real_tracking_server import running_tracking_server
from sqlalchemy import NullPool

from l2c_ray.search.storage import STORAGE_VARIABLE
from l2c_ray.storage.objects import open_store

SEARCH = REPOSITORY / "jobs" / "configs" / "digits-lambda-search.toml"
WITHIN_BUDGETS = SEARCH.with_name("digits-search.toml")
TINY = (
    "study.trials=3",
    "learn.training.iterations=10",
    "learn.training.batch_size=4",
    "learn.training.checkpoint_every=5",
    "learn.router.initial_logit=0.3",
    "learn.evaluation.images=8",
    "gate.images=8",
    "space={router.lambda={low=1e-3, high=1e-1, log=true}, training.learning_rate={low=0.2, high=0.4}}",
)
SLOWER = ("study.trials=4", "learn.training.iterations=40", "study.lease_seconds=4", "derive={}")


def test_tiny_search_ends_with_a_frontier_and_its_versions(cluster: Cluster) -> None:
    before = len(cluster.mlflow.search_model_versions())
    derive = "derive={theta=[0.3, 0.7], by_phase=[[0.3, 0.5, 0.7]], budget=[0.6]}"
    done = cluster.l2c("search", str(SEARCH), "--json", *set_options(*TINY, derive, "study.name='tiny'"))
    assert done.returncode == 0, done.stderr
    assert "trials 3/3" in done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    trials = {trial["number"]: trial for trial in answer["trials"]}
    learned = [trial for trial in trials.values() if trial["parent"] is None]
    assert len(learned) == 3
    assert len(trials) > 3, "no threshold made another schedule"
    assert any(trial["point"]["compute_share"] <= 0.6 for trial in trials.values() if trial["parent"] is not None)
    assert {trial["parent"] for trial in trials.values()} - {None} <= {trial["number"] for trial in learned}

    best = [trials[number] for number in answer["frontier"]]
    costs, errors = [trial["cost"] for trial in best], [trial["point"]["mse"] for trial in best]
    assert costs == sorted(costs)
    assert errors == sorted(errors, reverse=True)
    for trial in trials.values():
        assert any(at["cost"] <= trial["cost"] and at["point"]["mse"] <= trial["point"]["mse"] for at in best)
    assert len(cluster.mlflow.search_model_versions()) - before == len(best) == len(answer["versions"])
    version = answer["versions"][0]
    tags = cluster.mlflow.get_model_version(version["name"], str(version["version"])).tags
    assert (tags["lineage.study"], tags["lineage.trial"]) == ("tiny", str(best[0]["number"]))

    # The gate asks for more than 8 images can prove; whatever it said is told by the version.
    assert any(tag.startswith("gate") for each in cluster.mlflow.search_model_versions() for tag in each.tags)

    run = cluster.mlflow_run("tiny")
    assert run.info.status == "FINISHED"
    artifacts = {file.path for file in cluster.mlflow.list_artifacts(run.info.run_id)}
    assert {"trials.png", "frontier.png", "trials.json", f"trial-{best[0]['number']:04d}"} <= artifacts


def test_trials_within_budgets_keep_within_them(cluster: Cluster) -> None:
    few = ("learn.training.iterations=6", "learn.training.batch_size=2", "learn.evaluation.images=8", "gate.images=8")
    options = set_options(*few, "study.trials=3", "study.parallel=1", "learn.sampler.steps=6", "study.name='budgets'")
    done = cluster.l2c("search", str(WITHIN_BUDGETS), *options)
    assert done.returncode == 0, done.stderr
    trials = journal(cluster, "budgets")
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    for trial in trials:
        assert trial.params["router.budget"] - 0.02 <= trial.values[0] <= trial.params["router.budget"]


def test_killed_worker_and_killed_job_cost_no_trial_and_double_none(cluster: Cluster) -> None:
    entrypoint = ["python", "jobs/search.py", "--config", str(SEARCH.relative_to(REPOSITORY))]
    options = set_options(*TINY, *SLOWER, "study.name='killed'")
    job = cluster.submit(*entrypoint, *options)
    wait_until(lambda: checkpoints(cluster, "killed") >= 2)
    running_trials(cluster)[0].kill()
    wait_until(lambda: any("retry_of" in trial.user_attrs for trial in journal(cluster, "killed")))
    wait_until(lambda: finished(journal(cluster, "killed")) >= 1)
    wait_until(lambda: len(running_trials(cluster)) == 2)
    for process in (*drivers("killed"), *running_trials(cluster)):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert cluster.wait_for_job(job)[0] == JobStatus.FAILED
    left = [trial.number for trial in journal(cluster, "killed") if trial.state.name == "RUNNING"]
    assert left
    status, log = cluster.wait_for_job(cluster.submit(*entrypoint, *options))
    assert status == JobStatus.SUCCEEDED, log
    trials = journal(cluster, "killed")
    assert_each_but_once(trials, 4)
    retried = {trial.user_attrs["retry_of"]: trial for trial in trials if "retry_of" in trial.user_attrs}
    assert len(retried) >= 2
    for number, trial in retried.items():
        assert trial.params == trials[number].params
    assert any("its worker died" in trials[number].user_attrs["reason"] for number in retried)
    assert any("was not heard of" in trials[number].user_attrs["reason"] for number in retried)


def test_two_drivers_share_a_database_that_is_restarted_under_them(cluster: Cluster, tmp_path: Path) -> None:
    """Study and tracking server in PostgreSQL, checkpoints and artifacts in S3, all by environment variables."""
    options = set_options(
        *TINY, *SLOWER, "study.trials=4", "study.lease_seconds=30", "study.parallel=1", "study.name='shared'"
    )
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
            searching(cluster, logs[0], *options, **variables) as first,
            searching(cluster, logs[1], *options, **variables) as second,
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
    options = set_options(*TINY, *SLOWER, "study.trials=2", "study.parallel=1", "study.name='cut-off'")
    with running_object_server(tmp_path / "swift") as objects:
        variables = {"L2C_STORAGE": f"s3://{BUCKET}/runs", **objects.environment()}
        store = open_store(f"s3://{BUCKET}/runs", objects.environment())
        with searching(cluster, tmp_path / "log", *options, **variables) as driver:
            wait_until(lambda: any(name.endswith("state.safetensors") for name in store.names()))
            with objects.away():
                assert driver.wait(timeout=PATIENCE) == 1
        assert "S3 does not answer" in (tmp_path / "log").read_text().strip().splitlines()[-1]
        done = cluster.l2c("search", str(SEARCH), *options, **variables)
        assert done.returncode == 0, done.stderr
    assert_each_but_once(journal(cluster, "cut-off"), 2)


def test_full_disk_ends_the_search_which_goes_on_when_there_is_room(cluster: Cluster, small_disk: Path) -> None:
    options = set_options(*TINY, "study.trials=1", "study.parallel=1", "derive={}", "study.name='full-disk'")
    filler = small_disk / "filler"
    # All but a page.
    filler.write_bytes(bytes((1 << 20) - 4096))
    full = cluster.l2c("search", str(SEARCH), *options, L2C_STORAGE=str(small_disk))
    assert full.returncode == 2
    last = full.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {small_disk}")
    assert "No space left" in last
    filler.unlink()
    done = cluster.l2c("search", str(SEARCH), *options, L2C_STORAGE=str(small_disk))
    assert done.returncode == 0, done.stderr
    assert_each_but_once(journal(cluster, "full-disk"), 1)


def test_short_outage_of_the_storage_is_waited_out_and_results_wait_for_the_tracking_server(
    cluster: Cluster, tmp_path: Path
) -> None:
    options = set_options(*TINY, *SLOWER, "study.trials=2", "study.parallel=1", "study.name='outages'")
    with running_object_server(tmp_path / "swift") as objects:
        variables = {"L2C_STORAGE": f"s3://{BUCKET}/runs", **objects.environment()}
        store = open_store(f"s3://{BUCKET}/runs", objects.environment())
        with running_tracking_server(tmp_path) as server:
            there = variables | {"MLFLOW_TRACKING_URI": server.address}
            with searching(cluster, tmp_path / "log", *options, **there) as driver:
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


def test_tracking_server_that_is_away_ends_the_search_before_a_study_is_made(
    cluster: Cluster, unused_port: int
) -> None:
    away = f"http://127.0.0.1:{unused_port}"
    done = cluster.l2c("search", str(SEARCH), "--set", "study.name='nowhere'", MLFLOW_TRACKING_URI=away)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {away}: the tracking server does not answer")
    assert not (cluster.home / "studies" / "nowhere.journal").exists()


def test_search_without_a_single_schedule_fails_and_registers_nothing(cluster: Cluster) -> None:
    before = len(cluster.mlflow.search_model_versions())
    diverging = ("study.trials=2", "space={router.lambda={choices=[1e38, 2e38]}}", "study.name='diverged-study'")
    done = cluster.l2c("search", str(SEARCH), *set_options(*TINY, *diverging))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: study diverged-study: no trial came to a schedule, the last because")
    assert "the loss is not finite" in last
    assert cluster.mlflow_run("diverged-study").info.status == "FAILED"
    assert len(cluster.mlflow.search_model_versions()) == before
    assert [trial.state.name for trial in journal(cluster, "diverged-study")] == ["FAIL", "FAIL"]


def test_trials_learn_on_several_workers_where_others_ended_and_damaged_schedules_are_no_versions(
    cluster: Cluster,
) -> None:
    two = ("study.trials=2", "study.parallel=1", "study.warm_start=true", "learn.cluster.workers=2", "derive={}")
    options = set_options(*TINY, *two, "study.name='two-workers'")
    done = cluster.l2c("search", str(SEARCH), "--json", *options)
    assert done.returncode == 0, done.stderr
    trials = journal(cluster, "two-workers")
    assert [trial.user_attrs["warm_from"] for trial in trials] == [None, 0]
    kept = [cluster.home / "runs" / "two-workers" / trial.user_attrs["schedule"] for trial in trials]
    settings = [json.loads(path.read_text())["provenance"]["settings"] for path in kept]
    assert [each["workers"] for each in settings] == [2, 2]
    assert settings[1]["warm_from"] == 0
    answer = json.loads(done.stdout.splitlines()[-1])
    parents = [
        cluster.mlflow.get_model_version(version["name"], str(version["version"])).tags.get("lineage.parent")
        for version in answer["versions"]
    ]
    assert parents == [trials[0].user_attrs["sha256"] if number == 1 else None for number in answer["frontier"]]

    path = kept[answer["frontier"][0]]
    whole = path.read_text()
    other = next(each for each in kept if each != path).read_text()
    for damaged, told in ((whole[: len(whole) // 2], "two-workers"), (other, "is not the schedule that trial")):
        path.write_text(damaged)
        again = cluster.l2c("search", str(SEARCH), *options)
        assert again.returncode != 0
        assert str(path) in again.stderr.strip().splitlines()[-1]
        assert told in again.stderr.strip().splitlines()[-1]


def test_more_trials_at_once_than_the_cluster_holds_are_refused_before_there_is_a_study(cluster: Cluster) -> None:
    done = cluster.l2c("search", str(SEARCH), *set_options("study.name='refused'", "study.parallel=99"))
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: study.parallel: 99 of 1 CPU each do not fit")
    assert "MLflow run" not in done.stderr


@contextmanager
def searching(cluster: Cluster, log: Path, *options: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """`l2c search` while the context lasts; what it says goes to the log."""
    environment = cluster.environment() | variables
    with (
        log.open("wb") as file,
        subprocess.Popen(
            ["l2c", "search", str(SEARCH), *options], env=environment, cwd=cluster.home, stdout=file, stderr=file
        ) as driver,
    ):
        try:
            yield driver
        finally:
            driver.kill()


def journal(cluster: Cluster, study: str) -> list[FrozenTrial]:
    path = cluster.home / "studies" / f"{study}.journal"
    return optuna.load_study(study_name=study, storage=JournalStorage(JournalFileBackend(str(path)))).trials


def checkpoints(cluster: Cluster, study: str) -> int:
    return len(list((cluster.home / "runs" / study).glob("trial-*/state.safetensors")))


def running_trials(cluster: Cluster) -> list[psutil.Process]:
    return cluster.processes("run_trial")


def drivers(study: str) -> list[psutil.Process]:
    """The processes of submitted searches for the study."""
    every = [(process, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [each for each, words in every if "jobs/search.py" in words and f"study.name='{study}'" in words]


def finished(trials: list[FrozenTrial]) -> int:
    return sum(trial.state.name == "COMPLETE" for trial in trials)


def assert_each_but_once(trials: list[FrozenTrial], wanted: int) -> None:
    """As many finished trials as were wanted, nothing left, and every lost one run again by exactly one other."""
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "FAIL"}
    assert finished(trials) == wanted
    lost = [trial.number for trial in trials if trial.state.name == "FAIL"]
    assert sorted(trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs) == lost
    origins: list[Any] = [
        trial.user_attrs.get("origin", trial.number) for trial in trials if trial.state.name == "COMPLETE"
    ]
    assert len(set(origins)) == wanted
