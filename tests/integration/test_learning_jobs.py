"""Learning by `ray job submit`: it succeeds, fails with a clear last line, stops with a checkpoint, resumes."""

import signal
from pathlib import Path

from ray.job_submission import JobStatus
from real_cluster import SMALL, Cluster, meanwhile, set_options, wait_until
from real_runs import RESUMED, ResumedRun

from l2c_ray.schedule import Schedule


def test_stopped_job_is_gone_on_with_registers_and_logs(cluster: Cluster, resumed: ResumedRun) -> None:
    run = cluster.mlflow_run("resumed")
    assert run.info.status == "FINISHED"
    assert {"error", "loss", "mean_score", "compute_share"} <= run.data.metrics.keys()
    assert run.data.params["router.lambda"] == "0.0001"
    artifacts = {file.path for file in cluster.mlflow.list_artifacts(run.info.run_id)}
    assert {"schedule.json", "heatmap.png", "frontier.png", "frontier.json"} <= artifacts
    assert {"config-from-0.json", f"config-from-{resumed.stopped_at}.json"} <= artifacts
    assert "registered as digits-dit-ddim-20 version" in resumed.log
    assert "fixed-interval:interval=2" in resumed.log
    assert _schedule(cluster, "resumed").provenance.settings["iterations"] == resumed.iterations


def test_bad_config_fails_the_job_with_one_line(cluster: Cluster) -> None:
    job = cluster.submit("python", "jobs/learn.py", "--config", "jobs/configs/digits.toml", "--set", "router.lambda=-1")
    status, log = cluster.wait_for_job(job)
    assert status == JobStatus.FAILED
    last = log.strip().splitlines()[-1]
    assert last.startswith("error: router.lambda in --set: ")


def test_job_stopped_as_soon_as_its_run_is_there_is_marked_as_killed(cluster: Cluster) -> None:
    # So many that a busy machine does not come to their end before the stop.
    options = _small("job-early", "training.iterations=4000")
    # Its workers are not up yet: it takes the short wait that Ray has by default to its end.
    python = ("env", "RAY_JOB_STOP_WAIT_TIME_S=3", "python")
    job = cluster.submit(*python, "jobs/learn.py", "--config", "jobs/configs/digits.toml", *options)
    wait_until(lambda: "MLflow run" in cluster.jobs.get_job_logs(job))
    cluster.jobs.stop_job(job)
    status, log = cluster.wait_for_job(job)
    assert status == JobStatus.STOPPED
    assert cluster.mlflow_run("job-early").info.status == "KILLED"
    assert log.strip().splitlines()[-1] == "error: run job-early: was stopped; go on with --set run.name=job-early"


def test_killed_worker_does_not_change_the_schedule_of_a_seed(cluster: Cluster, resumed: ResumedRun) -> None:
    def kill_one() -> None:
        wait_until(lambda: cluster.checkpoints("disturbed"))
        workers = cluster.train_workers()
        assert len(workers) == 2
        workers[1].send_signal(signal.SIGKILL)
        # Nobody but Ray Train starts others in place of both.
        wait_until(lambda: len(set(cluster.train_workers()) - set(workers)) == 2)

    with meanwhile(kill_one):
        same = (*RESUMED, f"training.iterations={resumed.iterations}")
        again = cluster.learn(*same, "run.name='disturbed'", small=())
    assert again["run_name"] == "disturbed"
    stopped, disturbed = (_schedule(cluster, name) for name in ("resumed", "disturbed"))
    assert disturbed.table == stopped.table
    assert disturbed.quality == stopped.quality
    assert disturbed.provenance.settings == stopped.provenance.settings


def _small(name: str, *overrides: str) -> list[str]:
    return set_options(*SMALL, f"run.name='{name}'", *overrides)


def _schedule(cluster: Cluster, run_name: str) -> Schedule:
    """The schedule that the run has logged."""
    run = cluster.mlflow_run(run_name)
    downloaded = cluster.mlflow.download_artifacts(run.info.run_id, "schedule.json", str(cluster.home))
    return Schedule.from_json(Path(downloaded).read_text(), source=run_name)
