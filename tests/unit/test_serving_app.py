"""What the application's error handlers make of requests that get no images."""

from typing import Any

import pytest
from fastapi import FastAPI
from httpx import Response
from starlette.testclient import TestClient

from l2c_ray.serving.app import api
from l2c_ray.serving.schema import ErrorBody, GenerationRequest


@pytest.fixture
def handled() -> TestClient:
    """The handlers of the application around routes that need no replica."""
    application = FastAPI(exception_handlers=api.exception_handlers)

    @application.post("/images")
    async def take(body: GenerationRequest) -> int:
        return body.label

    @application.get("/broken")
    async def fail() -> None:
        raise RuntimeError("CUDA out of memory at /secret/path")

    return TestClient(application, raise_server_exceptions=False)


def post(client: TestClient, body: bytes) -> Response:
    return client.post("/images", content=body, headers={"content-type": "application/json"})


def error_of(response: Response) -> dict[str, Any]:
    return ErrorBody.model_validate(response.json()).error.model_dump()


def test_error_that_nobody_thought_of_is_answered_with_the_error_body(handled: TestClient) -> None:
    response = handled.get("/broken")
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
def test_request_at_fault_is_never_the_servers_error(handled: TestClient, body: bytes, status: int) -> None:
    response = post(handled, body)
    assert response.status_code == status
    assert error_of(response)["type"] == "invalid_request_error"
