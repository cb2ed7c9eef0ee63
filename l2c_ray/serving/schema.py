"""Requests and responses after OpenAI's images API, with a class label in place of a prompt."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

ErrorType = Literal["invalid_request_error", "server_error"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class GenerationRequest(_Body):
    """Body of `POST /v1/images/generations`. Image i of n is that of (label, seed + i)."""

    label: Annotated[int, Field(ge=0)]
    n: Annotated[int, Field(ge=1)] = 1
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    model: str | None = None
    """An id of `/v1/models`; the served schedule unless given."""
    size: str | None = None
    """`WIDTHxHEIGHT`; the model has one."""
    response_format: Literal["b64_json"] = "b64_json"


class GeneratedImage(_Body):
    b64_json: str
    """A PNG file in base64."""
    seed: int


class ServedSchedule(_Body):
    """The registered version that made an image."""

    name: str
    version: int
    sha256: str
    compute_share: float


class GenerationResponse(_Body):
    created: int
    """Seconds since 1970."""
    model: str
    schedule: ServedSchedule | None
    """None when everything was computed."""
    data: list[GeneratedImage]


class ModelEntry(_Body):
    id: str
    object: Literal["model"] = "model"
    owned_by: Literal["l2c_ray"] = "l2c_ray"
    schedule: ServedSchedule | None


class ModelList(_Body):
    object: Literal["list"] = "list"
    data: list[ModelEntry]


class Health(_Body):
    status: Literal["ok"] = "ok"


class ErrorDetail(_Body):
    message: str
    type: ErrorType = "invalid_request_error"
    param: str | None = None
    code: str | None = None


class ErrorBody(_Body):
    """Response body of a refused request."""

    error: ErrorDetail
