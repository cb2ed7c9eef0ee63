"""`l2c learn`: several budgets at once, bad input found before learning, and losses that diverge."""

from pathlib import Path

from real_cluster import DIGITS, PATIENCE, SMALL, Cluster, set_options
from real_runs import RESUMED, ResumedRun

from l2c_ray.schedule import Schedule


def test_several_budgets_give_a_version_and_a_file_each(cluster: Cluster, tmp_path: Path) -> None:
    small = set_options(
        "cluster.workers=1", "sampler.steps=6", "training.iterations=6", "evaluation.images=4", "run.name='budgets'"
    )
    config = DIGITS.with_name("digits-budget.toml")
    done = cluster.l2c("learn", str(config), *small, *set_options("router.budget=[0.8, 0.7]"), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("registered as digits-dit-ddim-6 version") == 2
    shares = [Schedule.from_json(file.read_text(), file.name).compute_share for file in sorted(tmp_path.iterdir())]
    assert 0.68 < shares[0] <= 0.7
    assert 0.78 < shares[1] <= 0.8
    artifacts = {file.path for file in cluster.mlflow.list_artifacts(cluster.mlflow_run("budgets").info.run_id)}
    assert {"budget-0.8", "budget-0.7"} <= artifacts


def test_run_of_other_settings_or_fewer_iterations_is_not_gone_on_with(cluster: Cluster, resumed: ResumedRun) -> None:
    done, fewer = resumed.iterations, resumed.iterations - 1
    for override, problem in (
        ("router.lambda=0.5", "run.name: run resumed was begun with lambda = 0.0001, not 0.5"),
        (
            f"training.iterations={fewer}",
            f"training.iterations: run resumed has done {done} already, more than {fewer}",
        ),
    ):
        refused = cluster.l2c("learn", str(DIGITS), *set_options(*RESUMED, f"training.iterations={done}", override))
        assert refused.returncode == 2
        assert refused.stderr.strip().splitlines()[-1].startswith(f"error: {problem}")
    assert cluster.mlflow_run("resumed").info.status == "FINISHED"


def test_loss_that_is_not_finite_fails_the_run_and_registers_nothing(cluster: Cluster) -> None:
    before = len(cluster.mlflow.search_model_versions())
    done = cluster.l2c("learn", str(DIGITS), *set_options(*SMALL, "run.name='diverged'", "router.lambda=1e38"))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: run diverged: the loss is not finite")
    assert cluster.mlflow_run("diverged").info.status == "FAILED"
    assert len(cluster.mlflow.search_model_versions()) == before


def test_too_many_workers_are_refused_before_there_is_a_run(cluster: Cluster) -> None:
    done = cluster.l2c("learn", str(DIGITS), *set_options(*SMALL, "cluster.workers=99"))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: cluster.workers: 99 workers")
    assert "MLflow run" not in done.stderr


def test_wrong_token_ends_at_once_with_one_line(cluster: Cluster, tmp_path: Path) -> None:
    # Ray tries twenty times unless told.
    wrong = {"RAY_AUTH_TOKEN": "0" * 64, "RAY_NUM_REDIS_GET_RETRIES": "2"}
    log = tmp_path / "log"
    with cluster.process("l2c", "learn", str(DIGITS), *set_options(*SMALL), log=log, **wrong) as learning:
        assert learning.wait(timeout=PATIENCE) == 1
    last = log.read_text().strip().splitlines()[-1]
    assert last.startswith(f"error: {cluster.head.address}: the Ray cluster there does not let you in")
