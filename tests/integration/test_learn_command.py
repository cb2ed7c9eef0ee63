"""`l2c learn` against the cluster: the same result from the same seed, and bad input found before learning."""

import pytest
from real_cluster import DIGITS, SMALL, Cluster, set_options


def test_same_config_and_seed_give_the_same_schedule(cluster: Cluster) -> None:
    one_worker = ("cluster.workers=1", "run.seed=3")
    first = cluster.learn(*one_worker)
    second = cluster.learn(*one_worker)
    assert first["run_name"] != second["run_name"]
    assert first["version"]["sha256"] == second["version"]["sha256"]


def test_loss_that_is_not_finite_fails_the_run_and_registers_nothing(cluster: Cluster) -> None:
    before = cluster.l2c("registry", "list", "--json").stdout
    done = cluster.l2c("learn", str(DIGITS), *set_options(*SMALL, "run.name='diverged'", "router.lambda=1e38"))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: run diverged: the loss is not finite")
    (run,) = cluster.mlflow.search_runs(["1"], "tags.`l2c.run` = 'diverged'")
    assert run.info.status == "FAILED"
    assert cluster.l2c("registry", "list", "--json").stdout == before


def test_run_of_other_settings_is_not_gone_on_with(cluster: Cluster) -> None:
    cluster.learn("run.name='settled'", "training.iterations=2")
    done = cluster.l2c("learn", str(DIGITS), *set_options(*SMALL, "run.name='settled'", "router.lambda=0.5"))
    assert done.returncode == 2
    assert "run settled was begun with lambda = 0.0001, not 0.5" in done.stderr


@pytest.mark.parametrize(
    ("override", "code", "named"),
    [
        ("cluster.workers=99", 2, "cluster.workers"),
        ("router.lamda=1", 2, "did you mean lambda?"),
        ("model.checkpoint='/nowhere'", 2, "/nowhere/transformer/diffusion_pytorch_model.safetensors"),
        ("run.storage='/proc/runs'", 2, "/proc/runs"),
    ],
)
def test_bad_input_ends_at_once_with_one_line(cluster: Cluster, override: str, code: int, named: str) -> None:
    done = cluster.l2c("learn", str(DIGITS), *set_options(*SMALL, override))
    assert done.returncode == code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert named in last
    assert "MLflow run" not in done.stderr


def test_unreachable_tracking_server_ends_at_once(cluster: Cluster) -> None:
    options = set_options(*SMALL)
    done = cluster.l2c("learn", str(DIGITS), *options, MLFLOW_TRACKING_URI="http://user:secret@127.0.0.1:9")
    assert done.returncode == 1
    assert "http://user:***@127.0.0.1:9: the tracking server does not answer" in done.stderr
    assert "secret" not in done.stderr + done.stdout
