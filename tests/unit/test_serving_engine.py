import base64
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import lineages
import pytest
from mlflow import MlflowClient
from pydantic import ValidationError
from registry_factories import retrained_digits
from tiny_models import save_tiny_autoencoder
from unit_factories import measured_schedule

from l2c_ray.caching.pipeline import Pipeline, encode_png
from l2c_ray.config.serving import FULL, ServingConfig
from l2c_ray.errors import ConfigError, InvalidInputError, RegistryError, ScheduleError, UnreachableError
from l2c_ray.models.vae import LatentDecoder
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import RegisteredVersion
from l2c_ray.schedule import Guidance, Schedule
from l2c_ray.serving.engine import Engine, UnfitRequestError, UnknownModelError
from l2c_ray.serving.schema import GenerationRequest, GenerationResponse

NAME = "digits-dit-ddim-4"
LESS = fixed_interval(4, 24, 4)

Register = Callable[..., RegisteredVersion]
MakeEngine = Callable[..., Engine]


def ask(serving: Engine, **changes: Any) -> GenerationResponse:
    return serving.generate(GenerationRequest(**({"label": 3} | changes)))


def pngs(response: GenerationResponse) -> list[bytes]:
    return [base64.b64decode(image.b64_json, validate=True) for image in response.data]


@pytest.fixture
def engine() -> Iterator[MakeEngine]:
    """Makes engines, which end with the test."""
    with ExitStack() as stack:

        def make(**changes: Any) -> Engine:
            values: dict[str, Any] = {"model": "digits-dit", "steps": 4, "refresh_seconds": 3600.0, "max_images": 3}
            return stack.enter_context(closing(Engine(ServingConfig.parse(values | changes, source="test"))))

        yield make


@pytest.fixture
def add(client: MlflowClient, run: TrackedRun) -> Register:
    def add(schedule: Schedule) -> RegisteredVersion:
        return lineages.add(client, run, schedule)

    return add


@pytest.fixture
def champion(add: Register, half: Schedule) -> Schedule:
    add(half)
    return half


def test_image_is_that_of_the_pipeline_under_the_champion(
    engine: MakeEngine, champion: Schedule, digits_pipeline: Pipeline
) -> None:
    response = ask(engine(), label=7, seed=11)
    (wanted,) = digits_pipeline.generate([7], [11], champion)
    assert pngs(response) == [encode_png(wanted)]
    assert response.model == "champion"
    assert response.schedule is not None
    assert (response.schedule.name, response.schedule.version) == (NAME, 1)
    assert response.schedule.sha256 == champion.sha256
    assert response.schedule.compute_share == champion.compute_share
    assert abs(response.created - time.time()) < 60


def test_full_computes_everything(engine: MakeEngine, champion: Schedule, digits_pipeline: Pipeline) -> None:
    serving = engine()
    response = ask(serving, label=7, seed=11, model=FULL)
    (wanted,) = digits_pipeline.generate([7], [11])
    assert pngs(response) == [encode_png(wanted)]
    assert pngs(response) != pngs(ask(serving, label=7, seed=11))
    assert (response.model, response.schedule) == (FULL, None)


def test_images_of_one_request_have_seeds_in_a_row(
    engine: MakeEngine, champion: Schedule, digits_pipeline: Pipeline
) -> None:
    serving = engine()
    response = ask(serving, n=3, seed=5, size="8x8", model="champion")
    assert [image.seed for image in response.data] == [5, 6, 7]
    assert pngs(response) == [encode_png(image) for image in digits_pipeline.generate([3] * 3, [5, 6, 7], champion)]
    assert len(set(pngs(response))) == 3


def test_same_request_gives_the_same_image(engine: MakeEngine, champion: Schedule) -> None:
    serving = engine()
    assert pngs(ask(serving, seed=2**53)) == pngs(ask(serving, seed=2**53))


@pytest.mark.parametrize(
    ("changes", "field", "error"),
    [
        ({"label": 10}, "label", UnfitRequestError),
        ({"n": 4}, "n", UnfitRequestError),
        ({"size": "256x256"}, "size", UnfitRequestError),
        ({"size": "8"}, "size", UnfitRequestError),
        ({"model": "fast"}, "model", UnknownModelError),
        ({"model": ""}, "model", UnknownModelError),
    ],
)
def test_request_that_cannot_be_served_is_refused_naming_the_field(
    engine: MakeEngine, champion: Schedule, changes: dict[str, Any], field: str, error: type[InvalidInputError]
) -> None:
    with pytest.raises(error) as caught:
        ask(engine(), **changes)
    assert caught.value.subject == field
    assert "take" in caught.value.remedy


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "label"),
        ({"label": -1}, "label"),
        ({"label": "3"}, "label"),
        ({"label": 3.0}, "label"),
        ({"label": 3, "n": 0}, "n"),
        ({"label": 3, "seed": -1}, "seed"),
        ({"label": 3, "seed": 2**53 + 1}, "seed"),
        ({"label": 3, "response_format": "url"}, "response_format"),
        ({"label": 3, "prompt": "a three"}, "prompt"),
    ],
)
def test_body_that_is_no_request_is_refused_naming_the_field(body: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        GenerationRequest.model_validate(body)
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


def test_models_are_the_alias_with_its_schedule_and_the_baseline(engine: MakeEngine, champion: Schedule) -> None:
    scheduled_entry, full_entry = engine().models().data
    assert (scheduled_entry.id, full_entry.id) == ("champion", FULL)
    assert scheduled_entry.schedule is not None
    assert scheduled_entry.schedule.sha256 == champion.sha256
    assert full_entry.schedule is None


def test_any_alias_can_be_served(engine: MakeEngine, client: MlflowClient, champion: Schedule) -> None:
    client.set_registered_model_alias(NAME, "fast", "1")
    serving = engine(alias="fast")
    assert ask(serving).model == "fast"
    assert [entry.id for entry in serving.models().data] == ["fast", FULL]


def test_guidance_is_that_of_the_schedule(engine: MakeEngine, add: Register, digits_pipeline: Pipeline) -> None:
    guided = Pipeline(digits_pipeline.model, digits_pipeline.solver, Guidance(scale=3.0))
    schedule = measured_schedule(guided, fixed_interval(4, 24, 2))
    add(schedule)
    assert pngs(ask(engine())) == [encode_png(guided.generate([3], [0], schedule)[0])]


def test_baseline_stays_the_same_when_the_alias_moves(
    engine: MakeEngine, client: MlflowClient, add: Register, champion: Schedule, digits_pipeline: Pipeline
) -> None:
    guided = Pipeline(digits_pipeline.model, digits_pipeline.solver, Guidance(scale=3.0))
    other = add(measured_schedule(guided, fixed_interval(4, 24, 2)))
    before = pngs(ask(engine(), model=FULL))
    client.set_registered_model_alias(NAME, "champion", str(other.version))
    assert pngs(ask(engine(), model=FULL)) == before == [encode_png(digits_pipeline.generate([3], [0])[0])]
    assert pngs(ask(engine(guidance_scale=3.0), model=FULL)) == [encode_png(guided.generate([3], [0])[0])]


def test_model_of_latents_is_served_as_what_its_autoencoder_decodes(
    engine: MakeEngine, add: Register, latents: Pipeline, tmp_path: Path
) -> None:
    schedule = measured_schedule(latents, fixed_interval(4, 4, 2))
    add(schedule)
    tiny = {"model": "tiny", "checkpoint": str(tmp_path)}
    with pytest.raises(ConfigError, match="vae: is missing, and tiny makes latents of 4 channels"):
        engine(**tiny)
    with pytest.raises(ConfigError, match="vae: decodes latents of 3 channels, and tiny makes 4"):
        engine(**tiny, vae=str(save_tiny_autoencoder(tmp_path / "other", channels=3)))
    vae = save_tiny_autoencoder(tmp_path / "vae")
    serving = engine(**tiny, vae=str(vae))
    decoded = LatentDecoder(vae).decode(latents.generate([1, 1], [5, 6], schedule))
    assert decoded.shape == (2, 3, 8, 8)
    assert pngs(ask(serving, label=1, n=2, seed=5, size="8x8")) == [encode_png(image) for image in decoded]
    with pytest.raises(UnfitRequestError, match="take 8x8"):
        ask(serving, label=1, size="4x4")


def test_engine_without_the_alias_does_not_start(engine: MakeEngine, champion: Schedule) -> None:
    with pytest.raises(RegistryError, match=f"{NAME}@fast"):
        engine(alias="fast")


def test_engine_does_not_start_on_a_schedule_of_other_weights(
    engine: MakeEngine, client: MlflowClient, add: Register, half: Schedule
) -> None:
    other = half.model.model_copy(update={"weights_sha256": "0" * 64})
    foreign = add(Schedule.create(other, half.sampler, half.table, half.provenance, half.cost, half.quality))
    client.create_registered_model(NAME)
    copied = client.copy_model_version(foreign.uri, NAME)
    client.set_registered_model_alias(NAME, "champion", copied.version)
    with pytest.raises(ScheduleError, match=r"model\.weights_sha256"):
        engine()


def test_weights_in_a_folder_are_served_by_the_schedules_learned_for_them(
    engine: MakeEngine, champion: Schedule, add: Register, tmp_path: Path
) -> None:
    folder = retrained_digits(tmp_path / "retrained")
    with pytest.raises(RegistryError, match="digits-dit-.*-ddim-4@champion"):
        engine(checkpoint=str(folder))
    pipeline = Pipeline.load("digits-dit", folder, steps=4)
    schedule = measured_schedule(pipeline, LESS)
    registered = add(schedule)
    response = ask(engine(checkpoint=str(folder)))
    assert response.schedule is not None
    assert response.schedule.name == registered.name == f"digits-dit-{pipeline.model.weights_sha256[:8]}-ddim-4"
    assert pngs(response) == [encode_png(pipeline.generate([3], [0], schedule)[0])]


def test_engine_does_not_start_without_a_registry(
    engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port}")
    with pytest.raises(UnreachableError, match=str(unused_port)):
        engine()
