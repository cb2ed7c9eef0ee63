"""The HTTP application in front of an engine, which samples off the event loop."""

import asyncio
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI

from l2c_ray.serving.engine import Engine
from l2c_ray.serving.hosts import KnownHosts
from l2c_ray.serving.refusals import HANDLERS
from l2c_ray.serving.schema import GenerationRequest, GenerationResponse, Health, ModelList


def application(engine: Engine, hosts: Collection[str]) -> FastAPI:
    """The application with the engine's routes; the engine runs in one thread, so that the event loop stays free.

    Args:
        hosts: names of this service; see `ServingConfig.hosts`.
    """
    api = FastAPI(title="l2c_ray", docs_url=None, redoc_url=None, exception_handlers=HANDLERS)
    api.add_middleware(KnownHosts, hosts=hosts)
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    @api.post("/v1/images/generations")
    async def generate(body: GenerationRequest) -> GenerationResponse:
        return await asyncio.get_running_loop().run_in_executor(thread, engine.generate, body)

    @api.get("/v1/models")
    async def models() -> ModelList:
        return engine.models()

    @api.get("/health")
    async def health() -> Health:
        return Health()

    return api
