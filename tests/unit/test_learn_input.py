"""Input that `l2c learn` refuses before it connects to a cluster, which it does before it starts a run."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from real_object_store import BUCKET, ObjectServer
from unit_factories import Refused

DIGITS = Path(__file__).parents[2] / "jobs" / "configs" / "digits.toml"


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.checkpoint='/nowhere'", "/nowhere: cannot be read"),
        ("model.name='other'", "other"),
        ("sampler.name='other'", "other"),
        ("run.storage='/proc/runs'", "/proc/runs"),
    ],
)
def test_bad_input_is_reported_in_one_line(refused: Refused, override: str, named: str) -> None:
    assert named in refused("learn", DIGITS, "--set", override)


def test_wrong_keys_of_the_storage_are_reported_without_them(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, object_server: ObjectServer
) -> None:
    for name, value in object_server.environment("s3cret-but-wrong").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("L2C_STORAGE", f"s3://{BUCKET}/runs")
    line = refused("learn", DIGITS)
    assert line.startswith(f"error: s3://{BUCKET}/runs/")
    assert "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in line
    assert "s3cret" not in line


def test_unreachable_tracking_server_is_reported_without_its_password(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:s3cret@127.0.0.1:{unused_port}")
    line = refused("learn", DIGITS, code=1)
    assert f"http://***@127.0.0.1:{unused_port}: the tracking server does not answer" in line
    assert "s3cret" not in line


def test_bad_address_of_a_cluster_is_reported_before_a_run_begins(refused: Refused, client: MlflowClient) -> None:
    assert "RAY_ADDRESS: nowhere is no host:port" in refused("learn", DIGITS)
    assert client.get_experiment_by_name("l2c") is None
