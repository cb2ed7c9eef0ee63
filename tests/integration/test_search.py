"""`l2c search` on a real cluster: a frontier and its versions, and the exact number of trials, whatever dies."""

import json
from contextlib import suppress

import psutil
from ray.job_submission import JobStatus
from real_cluster import REPOSITORY, Cluster, set_options, wait_until
from real_studies import (
    SEARCH,
    SLOWER,
    TINY,
    assert_each_but_once,
    checkpoints,
    drivers,
    finished,
    journal,
    running_trials,
)

WITHIN_BUDGETS = SEARCH.with_name("digits-search.toml")


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
    few = (
        "learn.training.iterations=6",
        "learn.training.batch_size=2",
        "learn.evaluation.images=8",
        "gate.images=8",
        "gate.resamples=100",
    )
    options = set_options(
        *few, "study.trials=3", "study.parallel=1", "learn.sampler.steps=6", "study.name='within-budgets'"
    )
    done = cluster.l2c("search", str(WITHIN_BUDGETS), *options)
    assert done.returncode == 0, done.stderr
    trials = journal(cluster, "within-budgets")
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
    done = cluster.l2c("search", str(SEARCH), *options)
    assert done.returncode == 0, done.stderr
    trials = journal(cluster, "killed")
    assert_each_but_once(trials, 4)
    retried = {trial.user_attrs["retry_of"]: trial for trial in trials if "retry_of" in trial.user_attrs}
    assert len(retried) >= 2
    for number, trial in retried.items():
        assert trial.params == trials[number].params
    assert any("its worker died" in trials[number].user_attrs["reason"] for number in retried)
    assert any("was not heard of" in trials[number].user_attrs["reason"] for number in retried)


def test_absent_tracking_server_ends_the_search_before_its_study(cluster: Cluster, unused_port: int) -> None:
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


def test_trials_on_workers_start_warm_and_damaged_schedules_fail(
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


def test_too_many_parallel_trials_are_refused_before_there_is_a_study(cluster: Cluster) -> None:
    done = cluster.l2c("search", str(SEARCH), *set_options("study.name='refused'", "study.parallel=99"))
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: study.parallel: 99 of 1 CPU each do not fit")
    assert "MLflow run" not in done.stderr
