"""From requests to images, under the schedule that has the alias; without HTTP or Ray."""

import base64
import time
from dataclasses import replace
from pathlib import Path

import torch

from l2c_ray.caching.pictures import Pictures
from l2c_ray.caching.pipeline import Pipeline, encode_png
from l2c_ray.config.serving import FULL, ServingConfig
from l2c_ray.errors import InvalidInputError
from l2c_ray.models import zoo
from l2c_ray.models.labels import require_label
from l2c_ray.registry import tracking
from l2c_ray.registry.versions import RegisteredVersion, model_name
from l2c_ray.schedule import Schedule
from l2c_ray.serving.following import AliasFollower
from l2c_ray.serving.schema import (
    GeneratedImage,
    GenerationRequest,
    GenerationResponse,
    ModelEntry,
    ModelList,
    ServedSchedule,
)


class UnknownModelError(InvalidInputError):
    """A request names a model id that is not served."""


class UnfitRequestError(InvalidInputError):
    """A request's value is out of this model's range; `subject` is the field."""


class Engine:
    """One model with the schedule that has an alias, now and later."""

    def __init__(self, config: ServingConfig) -> None:
        """Loads the weights and the schedule, and begins to follow the alias.

        Raises:
            L2CError: the registry does not answer, no version has the alias, or it was made for another model; or the
                model makes latents, which nothing decodes.
        """
        self._config = config
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._pipeline = Pipeline.load(
            config.model,
            config.checkpoint,
            sampler=config.sampler,
            steps=config.steps,
            guidance=zoo.guidance_of(config.model, "model", config.guidance_scale, config.guidance_rule),
            device=device,
        )
        model = self._pipeline.model
        self._pictures = Pictures(model, Path(config.vae) if config.vae else None, "vae", device)
        client = tracking.connect()
        name = model_name(model.identity(), config.sampler, config.steps)
        self._alias = AliasFollower(client, name, config.alias, self._require_fit)
        self._alias.start(config.refresh_seconds)

    def close(self) -> None:
        """Stops following the alias."""
        self._alias.close()

    def generate(self, request: GenerationRequest) -> GenerationResponse:
        """Samples the request's images. Not thread-safe: one call at a time.

        Raises:
            UnknownModelError, UnfitRequestError: the request cannot be served; names the field.
        """
        self._check(request)
        served = self._alias.served
        full = request.model == FULL
        seeds = range(request.seed, request.seed + request.n)
        schedule = None if full else served.schedule
        pipeline = replace(self._pipeline, guidance=schedule.sampler.guidance) if schedule else self._pipeline
        samples = pipeline.generate([request.label] * request.n, seeds, schedule)
        return GenerationResponse(
            created=int(time.time()),
            model=FULL if full else self._config.alias,
            schedule=None if full else _described(served.version),
            data=[
                GeneratedImage(b64_json=base64.b64encode(encode_png(image)).decode(), seed=seed)
                for image, seed in zip(self._pictures.of(samples), seeds, strict=True)
            ],
        )

    def models(self) -> ModelList:
        """The model ids that requests may name."""
        scheduled = ModelEntry(id=self._config.alias, schedule=_described(self._alias.served.version))
        return ModelList(data=[scheduled, ModelEntry(id=FULL, schedule=None)])

    def _require_fit(self, schedule: Schedule) -> None:
        pipeline = self._pipeline
        schedule.require(pipeline.model.identity(), pipeline.solver.identity(schedule.sampler.guidance))

    def _check(self, request: GenerationRequest) -> None:
        served = (self._config.alias, FULL)
        if request.model not in (None, *served):
            raise UnknownModelError("model", f"{request.model!r} is not served", f"take one of {', '.join(served)}")
        try:
            require_label(request.label, self._pipeline.model.num_classes, self._config.model)
        except InvalidInputError as error:
            raise UnfitRequestError(error.subject, error.problem, error.remedy) from error
        if request.n > self._config.max_images:
            raise UnfitRequestError("n", f"{request.n} are too many images", f"take 1..{self._config.max_images}")
        _, height, width = self._pictures.shape
        if request.size not in (None, f"{width}x{height}"):
            raise UnfitRequestError("size", f"{request.size!r} is not the model's", f"take {width}x{height}")


def _described(version: RegisteredVersion) -> ServedSchedule:
    return ServedSchedule(
        name=version.name, version=version.version, sha256=version.sha256, compute_share=version.compute_share
    )
