"""The HTTP application: what is answered, to whom, and what requests get that get no images."""

from dataclasses import dataclass
from typing import Any, cast

import pytest
from httpx import Response
from starlette.testclient import TestClient

from l2c_ray.config.serving import ServingConfig
from l2c_ray.serving.engine import Engine
from l2c_ray.serving.http import application
from l2c_ray.serving.schema import ErrorBody, GenerationRequest, GenerationResponse, ModelList

ADDRESS = "http://127.0.0.1:8000"


@dataclass
class Recorder:
    """In the place of an engine, which would need a registry: notes what reaches it."""

    asked: int = 0

    def generate(self, request: GenerationRequest) -> GenerationResponse:
        self.asked += 1
        if request.seed == 13:
            raise RuntimeError("CUDA out of memory at /secret/path")
        return GenerationResponse(created=0, model="full", schedule=None, data=[])

    def models(self) -> ModelList:
        self.asked += 1
        return ModelList(data=[])


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def client(recorder: Recorder) -> TestClient:
    return client_of(recorder)


def client_of(recorder: Recorder, **config: Any) -> TestClient:
    hosts = ServingConfig.parse({"model": "digits-dit", **config}, source="args").hosts
    api = application(cast(Engine, recorder), hosts)
    return TestClient(api, base_url=ADDRESS, raise_server_exceptions=False)


def post(client: TestClient, body: bytes, **headers: str) -> Response:
    return client.post("/v1/images/generations", content=body, headers={"content-type": "application/json"} | headers)


def error_of(response: Response) -> dict[str, Any]:
    return ErrorBody.model_validate(response.json()).error.model_dump()


def test_error_that_nobody_thought_of_is_answered_with_the_error_body(client: TestClient) -> None:
    response = post(client, b'{"label": 1, "seed": 13}')
    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b'{"label": 1' + b"0" * 5000 + b"}", 400),
        (b"", 422),
        (b'{"label": NaN}', 422),
        (b'{"label": 1, "\\ud800": 1}', 422),
    ],
)
def test_request_at_fault_is_never_the_servers_error(client: TestClient, body: bytes, status: int) -> None:
    response = post(client, body)
    assert response.status_code == status
    assert error_of(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LocalHost.:8000",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1]",
        "[::1]:8000",
        "[0:0:0:0:0:0:0:1]:8000",
    ],
)
def test_loopback_is_a_known_host_by_each_of_its_names(client: TestClient, host: str) -> None:
    assert client.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "evil.example:80@localhost",
        "localhost@evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.5:8000",
        "[::2]",
        "::1",
        "[::1",
        "localhost:port",
        "local host",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/health", "/v1/models", "/openapi.json", "/nothing"])
def test_name_of_another_host_is_refused_before_anything_is_done(
    client: TestClient, recorder: Recorder, host: str, path: str
) -> None:
    response = client.get(path, headers={"host": host})
    assert response.status_code == 403
    assert error_of(response)["code"] == "host_not_allowed"
    assert "hosts" in error_of(response)["message"]
    assert post(client, b'{"label": 1}', host=host).status_code == 403
    assert recorder.asked == 0


def test_doubled_host_is_refused(client: TestClient) -> None:
    assert client.get("/health", headers=[("host", "localhost"), ("host", "evil.example")]).status_code == 403


def test_hosts_of_the_config_take_the_place_of_loopback(recorder: Recorder) -> None:
    client = client_of(recorder, hosts=["images.example", "fd00::5"])
    for host, status in {"images.example:443": 200, "[FD00:0::5]": 200, "localhost": 403, "example": 403}.items():
        assert client.get("/health", headers={"host": host}).status_code == status


@pytest.mark.parametrize("address", ["10.0.0.5", "[fd00::5]"])
def test_address_that_a_request_came_in_at_is_a_known_host(recorder: Recorder, address: str) -> None:
    api = client_of(recorder).app
    assert TestClient(api, base_url=f"http://{address}:8000").get("/health").status_code == 200
    # A name is none, whatever it stands for.
    assert TestClient(api, base_url="http://evil.example:8000").get("/health").status_code == 403


def test_pages_of_other_origins_may_not_read_answers(client: TestClient) -> None:
    origin = {"origin": "http://evil.example"}
    asked = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    preflight = client.options("/v1/images/generations", headers=asked)
    assert preflight.status_code == 405
    for answer in (preflight, client.get("/v1/models", headers=origin)):
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_body_that_a_page_can_send_unasked_makes_no_images(
    client: TestClient, recorder: Recorder, content_type: str
) -> None:
    answer = post(client, b'{"label": 1}', **{"content-type": content_type})
    assert answer.status_code == 422
    assert recorder.asked == 0
