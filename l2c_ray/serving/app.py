"""The Ray Serve application: HTTP in front of an engine that samples off the event loop."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray import serve
from ray.serve import Application
from starlette.exceptions import HTTPException

from l2c_ray.config.serving import ServingConfig
from l2c_ray.serving.binding import bind_to_node_address
from l2c_ray.serving.engine import Engine, UnfitRequestError, UnknownModelError
from l2c_ray.serving.schema import (
    ErrorBody,
    ErrorDetail,
    ErrorType,
    GenerationRequest,
    GenerationResponse,
    Health,
    ModelList,
)
from l2c_ray.storage import environment

api = FastAPI(title="l2c_ray", docs_url=None, redoc_url=None)


# Serve copies the application when it decorates the class, so the handlers must be there before it.


@api.exception_handler(RequestValidationError)
async def _refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
    problem = error.errors()[0]
    malformed = problem["type"] == "json_invalid"
    field = ".".join(str(part) for part in problem["loc"][1:])
    message = "the body is not JSON" if malformed else f"{field or 'body'}: {problem['msg']}"
    return _refusal(400 if malformed else 422, message, None if malformed else field or None)


@api.exception_handler(UnfitRequestError)
async def _refuse_value(request: Request, error: UnfitRequestError) -> JSONResponse:
    return _refusal(422, str(error), error.subject)


@api.exception_handler(UnknownModelError)
async def _refuse_model(request: Request, error: UnknownModelError) -> JSONResponse:
    return _refusal(404, str(error), error.subject, "model_not_found")


@api.exception_handler(HTTPException)
async def _refuse_route(request: Request, error: HTTPException) -> JSONResponse:
    return _refusal(error.status_code, f"{request.method} {request.url.path}: {error.detail}", None)


@api.exception_handler(Exception)
async def _fail(request: Request, error: Exception) -> JSONResponse:
    # Starlette raises the error again after the answer, and Ray Serve logs it.
    return _refusal(500, "the server failed; its log says why", None, kind="server_error")


def _refusal(
    status: int,
    message: str,
    param: str | None,
    code: str | None = None,
    kind: ErrorType = "invalid_request_error",
) -> JSONResponse:
    body = ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code))
    return JSONResponse(body.model_dump(), status)


@serve.deployment
@serve.ingress(api)
class ImageService:
    """One replica: an engine, and the one thread that runs it, so that the event loop stays free."""

    def __init__(self, config: dict[str, Any]) -> None:
        environment.settle()
        bind_to_node_address()
        self._engine = Engine(ServingConfig.parse(config, source="args"))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    @api.post("/v1/images/generations")
    async def generate(self, body: GenerationRequest) -> GenerationResponse:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.generate, body)

    @api.get("/v1/models")
    async def models(self) -> ModelList:
        return self._engine.models()

    @api.get("/health")
    async def health(self) -> Health:
        return Health()


def build(args: dict[str, Any]) -> Application:
    """The application of a Serve config; `args` are the keys of `ServingConfig`.

    Raises:
        ConfigError: a key is unknown or out of range.
    """
    config = ServingConfig.parse(args, source="args")
    needs = {"num_cpus": config.cpus_per_replica, "num_gpus": config.gpus_per_replica}
    # The decorators make a deployment of the class, which their annotations do not say.
    deployment: Any = ImageService
    options = deployment.options(num_replicas=config.replicas, ray_actor_options=needs)
    application: Application = options.bind(config.model_dump())
    return application
