"""The Ray Serve application over real HTTP."""

import base64
import io
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from lineages import add
from PIL import Image
from real_cluster import LOOPBACK, PATIENCE, REPOSITORY, Cluster, listening, wait_until

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.distributed import local_head
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.registry import tracking
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.schedule import Provenance, Quality

CONFIG = REPOSITORY / "jobs" / "configs" / "serve.yaml"


@pytest.fixture(scope="module")
def service(cluster: Cluster) -> Iterator[httpx.Client]:
    """The shipped Serve config on the cluster's port, over a registry that has a champion."""
    with pytest.MonkeyPatch.context() as patch:
        # MLflow puts the server that it is connected to into the environment, which other tests hand on.
        patch.setenv("MLFLOW_TRACKING_URI", "")
        _register_a_champion()
    config = cluster.home / "serve.yaml"
    config.write_text(CONFIG.read_text().replace("8000", str(cluster.head.serve_port)))
    deploy = ["serve", "deploy", "--address", cluster.head.dashboard_url, str(config)]
    subprocess.run(deploy, env=cluster.environment(), check=True, capture_output=True)
    with httpx.Client(base_url=cluster.head.serve_url, timeout=PATIENCE) as client:
        wait_until(lambda: _ready(client))
        yield client


def _register_a_champion() -> None:
    """In the registry of `$L2C_HOME`, which is the cluster's."""
    pipeline = Pipeline.load("digits-dit", steps=20)
    provenance = Provenance(policy="fixed-interval", settings={"interval": 2})
    schedule = make_schedule(pipeline, fixed_interval(20, len(pipeline.model.units), interval=2), provenance)
    measured = schedule.with_quality(Quality(protocol="test", metrics={"mse": 1e-3}))
    client = tracking.connect()
    run = TrackedRun(client, "serving", "serving", {})
    add(client, run, measured)


def test_image_is_that_of_l2c_generate(cluster: Cluster, service: httpx.Client, tmp_path: Path) -> None:
    answer = service.post("/v1/images/generations", json={"label": 3, "seed": 11, "n": 2})
    assert answer.status_code == 200
    body = answer.json()
    for image in body["data"]:
        out = tmp_path / f"{image['seed']}.png"
        options = ["--schedule", "champion", "--label", "3", "--seed", str(image["seed"]), "--out", str(out)]
        assert cluster.l2c("generate", "digits-dit", *options).returncode == 0
        served, generated = _pixels(base64.b64decode(image["b64_json"])), _pixels(out.read_bytes())
        assert np.abs(served - generated).max() <= 1
    assert [image["seed"] for image in body["data"]] == [11, 12]


def test_answer_names_the_served_version(cluster: Cluster, service: httpx.Client) -> None:
    body = service.post("/v1/images/generations", json={"label": 0}).json()
    champion = cluster.mlflow.get_model_version_by_alias("digits-dit-ddim-20", "champion")
    assert body["schedule"]["version"] == int(champion.version)
    assert body["schedule"]["sha256"] == champion.tags["sha256"]
    full = service.post("/v1/images/generations", json={"label": 0, "model": "full"}).json()
    assert full["schedule"] is None


def test_models_and_health(service: httpx.Client) -> None:
    assert [entry["id"] for entry in service.get("/v1/models").json()["data"]] == ["champion", "full"]
    assert service.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"label": 10}, 422, "label"),
        ({"label": -1}, 422, "label"),
        ({"label": True}, 422, "label"),
        ({"label": "3"}, 422, "label"),
        ({}, 422, "label"),
        ({"label": 1, "n": 0}, 422, "n"),
        ({"label": 1, "n": 65}, 422, "n"),
        ({"label": 1, "seed": -1}, 422, "seed"),
        ({"label": 1, "seed": 2**64}, 422, "seed"),
        ({"label": 1, "size": "512x512"}, 422, "size"),
        ({"label": 1, "response_format": "url"}, 422, "response_format"),
        ({"label": 1, "prompt": "a cat"}, 422, "prompt"),
        ({"label": 1, "model": "dall-e-3"}, 404, "model"),
        ([1, 2], 422, None),
    ],
)
def test_unfit_requests_get_the_error_body(service: httpx.Client, body: Any, status: int, param: str | None) -> None:
    answer = service.post("/v1/images/generations", json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_malformed_body_unknown_route_and_method(service: httpx.Client) -> None:
    malformed = service.post("/v1/images/generations", content=b"{", headers={"content-type": "application/json"})
    assert malformed.status_code == 400
    assert service.get("/v2/nothing").status_code == 404
    assert service.get("/v1/images/generations").status_code == 405
    for answer in (malformed, service.get("/v2/nothing"), service.get("/v1/images/generations")):
        assert answer.json()["error"]["message"]


def test_request_for_another_hosts_name_is_refused(service: httpx.Client) -> None:
    answer = service.post("/v1/images/generations", json={"label": 1}, headers={"host": "evil.example:8000"})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "host_not_allowed"


def test_health_answers_while_images_are_sampled(service: httpx.Client) -> None:
    sampling = threading.Thread(
        target=lambda: service.post("/v1/images/generations", json={"label": 1, "n": 64, "model": "full"})
    )
    sampling.start()
    answered = 0
    while sampling.is_alive():
        assert service.get("/health").status_code == 200
        answered += sampling.is_alive()
    # The first may have come before the images were asked for.
    assert answered > 10


def test_everything_listens_on_loopback_only(cluster: Cluster, service: httpx.Client) -> None:
    found = listening(local_head.processes(cluster.head.temp_dir))
    assert cluster.head.serve_port in {port for _, _, port in found}
    assert [place for place in found if place[1] not in LOOPBACK] == []


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/v1/models").status_code == 200
    except httpx.TransportError:
        return False


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)
