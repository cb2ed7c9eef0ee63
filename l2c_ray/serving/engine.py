"""Turns requests into images, under the schedule that holds the alias. Knows nothing of HTTP or Ray."""

import base64
import logging
import time
from pathlib import Path

import torch

from l2c_ray.caching.pipeline import Pipeline, encode_png
from l2c_ray.config.serving import ServingConfig
from l2c_ray.errors import InvalidInputError, L2CError
from l2c_ray.models import zoo
from l2c_ray.registry import tracking
from l2c_ray.registry.versions import RegisteredVersion, load_schedule, model_name, resolve
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Schedule
from l2c_ray.serving.schema import (
    FULL,
    GeneratedImage,
    GenerationRequest,
    GenerationResponse,
    ModelEntry,
    ModelList,
    ServedSchedule,
)

_log = logging.getLogger(__name__)


class UnknownModelError(InvalidInputError):
    """A request names a model id that is not served."""


class UnfitRequestError(InvalidInputError):
    """A request's value is out of this model's range; `subject` is the field."""


class Engine:
    """One model with one schedule. Not thread-safe: one thread at a time."""

    def __init__(self, config: ServingConfig) -> None:
        """Loads the weights and the schedule.

        Raises:
            L2CError: the registry does not answer, no version has the alias, or it was made for another model.
        """
        self._config = config
        self._client = tracking.connect()
        self._version, self._schedule = self._fetch()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = zoo.load(config.model, Path(config.checkpoint) if config.checkpoint else None, device)
        solver = make_solver(config.sampler, config.steps, model.scheduler)
        self._pipeline = Pipeline(model, solver, self._schedule.sampler.guidance_scale)
        self._schedule.require(model.identity(), solver.identity(self._schedule.sampler.guidance_scale))
        self._next_look = time.monotonic() + config.refresh_seconds

    def generate(self, request: GenerationRequest) -> GenerationResponse:
        """Samples the request's images.

        Raises:
            UnknownModelError, UnfitRequestError: the request cannot be served; names the field.
        """
        self.refresh()
        self._check(request)
        full = request.model == FULL
        seeds = range(request.seed, request.seed + request.n)
        schedule = None if full else self._schedule
        images = self._pipeline.generate([request.label] * request.n, seeds, schedule)
        return GenerationResponse(
            created=int(time.time()),
            model=FULL if full else self._config.alias,
            schedule=None if full else self._served(),
            data=[
                GeneratedImage(b64_json=base64.b64encode(encode_png(image)).decode(), seed=seed)
                for image, seed in zip(images, seeds, strict=True)
            ],
        )

    def models(self) -> ModelList:
        """The ids that a request may name."""
        self.refresh()
        scheduled = ModelEntry(id=self._config.alias, schedule=self._served())
        return ModelList(data=[scheduled, ModelEntry(id=FULL, schedule=None)])

    def refresh(self) -> None:
        """Looks the alias up again when it is time, and takes over the version that has it now."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + self._config.refresh_seconds
        try:
            version, schedule = self._fetch()
            schedule.require(
                self._pipeline.model.identity(), self._pipeline.solver.identity(self._pipeline.guidance_scale)
            )
        except L2CError as error:
            _log.warning("still serving version %d: %s", self._version.version, error)
            return
        self._version, self._schedule = version, schedule

    def _fetch(self) -> tuple[RegisteredVersion, Schedule]:
        config = self._config
        version = resolve(self._client, model_name(config.model, config.sampler, config.steps), config.alias)
        return version, load_schedule(version)

    def _check(self, request: GenerationRequest) -> None:
        served = (self._config.alias, FULL)
        if request.model not in (None, *served):
            raise UnknownModelError("model", f"{request.model!r} is not served", f"take one of {', '.join(served)}")
        classes = self._pipeline.model.num_classes
        if request.label >= classes:
            raise UnfitRequestError("label", f"{request.label} is not a class", f"take 0..{classes - 1}")
        if request.n > self._config.max_images:
            raise UnfitRequestError("n", f"{request.n} are too many images", f"take 1..{self._config.max_images}")
        _, height, width = self._pipeline.model.image_shape
        if request.size not in (None, f"{width}x{height}"):
            raise UnfitRequestError("size", f"{request.size!r} is not the model's", f"take {width}x{height}")

    def _served(self) -> ServedSchedule:
        version = self._version
        return ServedSchedule(
            name=version.name, version=version.version, sha256=version.sha256, compute_share=version.compute_share
        )
