"""What `ray job submit` does: succeed, fail with a clear last line, stop with a checkpoint, go on."""

import signal
from pathlib import Path

from ray.job_submission import JobStatus
from real_cluster import SMALL, Cluster, set_options, wait_until


def test_python_entrypoint_learns_registers_and_logs(cluster: Cluster) -> None:
    job = cluster.submit("python", "jobs/learn.py", "--config", "jobs/configs/digits.toml", *_small("job-python"))
    status, log = cluster.wait_for_job(job)
    assert status == JobStatus.SUCCEEDED, log
    run = _mlflow_run(cluster, "job-python")
    assert run.info.status == "FINISHED"
    assert {"error", "loss", "mean_score", "compute_share"} <= run.data.metrics.keys()
    assert run.data.params["router.lambda"] == "0.0001"
    artifacts = {file.path for file in cluster.mlflow.list_artifacts(run.info.run_id)}
    assert {"schedule.json", "heatmap.png", "frontier.png", "frontier.json"} <= artifacts
    assert "registered as digits-dit-ddim-20 version" in log
    assert "fixed interval 2" in log


def test_bare_entrypoint_goes_on_with_the_run_of_its_name(cluster: Cluster) -> None:
    job = cluster.submit("jobs/learn.py", "--config", "jobs/configs/digits.toml", *_small("job-python"))
    status, log = cluster.wait_for_job(job)
    assert status == JobStatus.SUCCEEDED, log
    # All iterations were done by the run before it, so none is left to report.
    assert "learning 40/40" not in log


def test_bad_config_fails_the_job_with_one_line(cluster: Cluster) -> None:
    job = cluster.submit("python", "jobs/learn.py", "--config", "jobs/configs/digits.toml", "--set", "router.lambda=-1")
    status, log = cluster.wait_for_job(job)
    assert status == JobStatus.FAILED
    last = log.strip().splitlines()[-1]
    assert last.startswith("error: router.lambda in jobs/configs/digits.toml: ")


def test_stopped_job_leaves_a_checkpoint_and_is_gone_on_with(cluster: Cluster) -> None:
    options = _small("job-stopped", "training.iterations=400", "training.checkpoint_every=400")
    job = cluster.submit("python", "jobs/learn.py", "--config", "jobs/configs/digits.toml", *options)
    wait_until(lambda: "learning 2" in cluster.jobs.get_job_logs(job), timeout=120)
    assert not cluster.checkpoints("job-stopped")
    cluster.jobs.stop_job(job)
    status, _ = cluster.wait_for_job(job)
    assert status == JobStatus.STOPPED
    assert cluster.checkpoints("job-stopped")
    wait_until(lambda: _mlflow_run(cluster, "job-stopped").info.status == "KILLED", timeout=5)

    again = cluster.submit("python", "jobs/learn.py", "--config", "jobs/configs/digits.toml", *options)
    status, log = cluster.wait_for_job(again)
    assert status == JobStatus.SUCCEEDED, log
    assert _first_iteration(log) > 20
    assert _mlflow_run(cluster, "job-stopped").info.status == "FINISHED"


def test_killed_worker_does_not_change_the_schedule(cluster: Cluster) -> None:
    more = ("cluster.workers=2", "training.iterations=150")
    undisturbed = cluster.learn("run.name='undisturbed'", *more)
    options = _small("disturbed", *more)
    job = cluster.submit("python", "jobs/learn.py", "--config", "jobs/configs/digits.toml", *options)
    wait_until(lambda: len(cluster.checkpoints("disturbed")) > 0, timeout=120)
    workers = cluster.train_workers()
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    status, log = cluster.wait_for_job(job)
    assert status == JobStatus.SUCCEEDED, log
    run = _mlflow_run(cluster, "disturbed")
    downloaded = cluster.mlflow.download_artifacts(run.info.run_id, "schedule.json", str(cluster.home))
    assert undisturbed["version"]["sha256"] in Path(downloaded).read_text()


def _small(name: str, *overrides: str) -> list[str]:
    return set_options(*SMALL, f"run.name='{name}'", *overrides)


def _mlflow_run(cluster: Cluster, name: str):
    experiment = cluster.mlflow.get_experiment_by_name("l2c")
    (run,) = cluster.mlflow.search_runs([experiment.experiment_id], f"tags.`l2c.run` = '{name}'")
    return run


def _first_iteration(log: str) -> int:
    line = next(line for line in log.splitlines() if line.startswith("learning "))
    return int(line.split()[1].split("/")[0])
