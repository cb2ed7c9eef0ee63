"""The Ray Serve application: replicas, each with an engine of its own behind HTTP."""

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from l2c_ray.config.serving import ServingConfig
from l2c_ray.serving.binding import bind_to_node_address
from l2c_ray.serving.engine import Engine
from l2c_ray.serving.http import application
from l2c_ray.storage import environment


def build(args: dict[str, Any]) -> Application:
    """The application of a Serve config; `args` are the keys of `ServingConfig`.

    Raises:
        ConfigError: a key is unknown or out of range.
    """
    config = ServingConfig.parse(args, source="args")

    def start() -> FastAPI:
        """Called by every replica when it starts."""
        environment.normalize()
        bind_to_node_address()
        return application(Engine(config), config.hosts)

    deployment = serve.deployment(
        name="ImageService",
        num_replicas=config.replicas,
        ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": config.gpus_per_replica},
    )
    bound: Application = deployment(serve.ingress(start)()).bind()
    return bound
