"""Settings of the Ray Serve application, given as `args` in its YAML config."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from l2c_ray.config.base import ONE_OR_MORE, Folder, JobConfig
from l2c_ray.schedule import MOST_GUIDANCE, MOST_STEPS, GuidanceRule

FULL = "full"
"""Name by which requests ask for the baseline."""

_HOST = re.compile(r"\[([0-9a-f:.]+)\]|([0-9a-z._-]+)", re.IGNORECASE | re.ASCII)


def host_name(written: str) -> str | None:
    """The one way to write this name or address of a host, for comparing; None if it is none.

    Args:
        written: as in an address, so that one of IPv6 is in brackets.
    """
    found = _HOST.fullmatch(written)
    if found is None:
        return None
    try:
        return str(ipaddress.ip_address(found[1] or found[2]))
    except ValueError:
        return found[2] and found[2].lower().removesuffix(".")


def _host(given: str) -> str:
    name = host_name(given) or host_name(f"[{given}]")
    if not name:
        raise ValueError("is no name or address of a host, which stands here without a port")
    return name


class ServingConfig(JobConfig):
    """A model to serve under the schedule that holds an alias of the registry."""

    model: Annotated[str, Field(min_length=1)]
    checkpoint: Folder | None = None
    """A folder in diffusers' layout, in place of the weights that ship in the package."""
    vae: Folder | None = None
    """A folder with diffusers' AutoencoderKL, for a model of latents."""
    sampler: Annotated[str, Field(min_length=1)] = "ddim"
    steps: Annotated[int, Field(ge=2, le=MOST_STEPS)] = 20
    guidance_scale: Annotated[float, Field(ge=0, le=MOST_GUIDANCE)] | None = None
    """Guidance of the baseline, with `guidance_rule`: the model's own unless given. A schedule is run with the guidance
    that it was made for."""
    guidance_rule: GuidanceRule | None = None
    alias: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,255}$")] = "champion"
    refresh_seconds: Annotated[float, Field(gt=0)] = 10.0
    """How often the alias is looked up again, so that a promotion needs no new deployment."""
    max_images: Annotated[int, Field(ge=1)] = 64
    """The most images of one request."""
    hosts: Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], *ONE_OR_MORE] = (
        "localhost",
        "127.0.0.1",
        "::1",
    )
    """Names by which clients call the endpoint, beside the address that they reach it at. A page in a browser could
    otherwise send it requests, from a name of its own that it lets stand for this machine (DNS rebinding)."""
    replicas: Annotated[int, Field(ge=1)] = 1
    cpus_per_replica: Annotated[float, Field(ge=0)] = 1.0
    gpus_per_replica: Annotated[float, Field(ge=0)] = 0.0

    @field_validator("alias")
    @classmethod
    def _is_not_that_of_the_baseline(cls, alias: str) -> str:
        if alias == FULL:
            raise ValueError(f"{FULL} is what requests call the run without a schedule")
        return alias
