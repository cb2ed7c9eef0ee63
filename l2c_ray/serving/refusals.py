"""Answers to requests that get no images: OpenAI's error body, whatever was wrong."""

from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from l2c_ray.serving.engine import UnfitRequestError, UnknownModelError
from l2c_ray.serving.schema import ErrorBody, ErrorDetail, ErrorType


def refusal(
    status: int,
    message: str,
    param: str | None,
    code: str | None = None,
    kind: ErrorType = "invalid_request_error",
) -> JSONResponse:
    """A response with OpenAI's error body; `param` is the field at fault."""
    body = ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code))
    return JSONResponse(body.model_dump(), status)


async def _refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
    problem = error.errors()[0]
    malformed = problem["type"] == "json_invalid"
    field = ".".join(str(part) for part in problem["loc"][1:])
    message = "the body is not JSON" if malformed else f"{field or 'body'}: {problem['msg']}"
    return refusal(400 if malformed else 422, message, None if malformed else field or None)


async def _refuse_value(request: Request, error: UnfitRequestError) -> JSONResponse:
    return refusal(422, str(error), error.subject)


async def _refuse_model(request: Request, error: UnknownModelError) -> JSONResponse:
    return refusal(404, str(error), error.subject, "model_not_found")


async def _refuse_route(request: Request, error: HTTPException) -> JSONResponse:
    return refusal(error.status_code, f"{request.method} {request.url.path}: {error.detail}", None)


async def _fail(request: Request, error: Exception) -> JSONResponse:
    # Starlette raises the error again after the answer, and Ray Serve logs it.
    return refusal(500, "the server failed; its log says why", None, kind="server_error")


HANDLERS: dict[int | type[Exception], Callable[..., Any]] = {
    RequestValidationError: _refuse_body,
    UnfitRequestError: _refuse_value,
    UnknownModelError: _refuse_model,
    HTTPException: _refuse_route,
    Exception: _fail,
}
"""Handlers by error class."""
