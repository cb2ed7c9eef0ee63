import base64
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from pydantic import ValidationError
from unit_factories import measured_schedule

from l2c_ray.caching.pipeline import Pipeline, encode_png
from l2c_ray.config.serving import ServingConfig
from l2c_ray.errors import InvalidInputError, RegistryError, ScheduleError, UnreachableError
from l2c_ray.policies.fixed_interval import fixed_interval_mask
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.registry.versions import RegisteredVersion, register
from l2c_ray.schedule import Schedule
from l2c_ray.serving.engine import Engine, UnfitRequestError, UnknownModelError
from l2c_ray.serving.schema import FULL, GenerationRequest, GenerationResponse

NAME = "digits-dit-ddim-4"
LESS = fixed_interval_mask(4, 24, 4)

Register = Callable[..., RegisteredVersion]


def engine(**changes: Any) -> Engine:
    values: dict[str, Any] = {"model": "digits-dit", "steps": 4, "refresh_seconds": 3600.0, "max_images": 3}
    return Engine(ServingConfig.parse(values | changes, source="test"))


def ask(serving: Engine, **changes: Any) -> GenerationResponse:
    return serving.generate(GenerationRequest(**({"label": 3} | changes)))


def pngs(response: GenerationResponse) -> list[bytes]:
    return [base64.b64decode(image.b64_json, validate=True) for image in response.data]


@pytest.fixture
def add(client: MlflowClient, run: TrackedRun) -> Register:
    def add(schedule: Schedule) -> RegisteredVersion:
        return register(client, schedule, run.id, (1, 8, 8), {}, worth_serving=True)

    return add


@pytest.fixture
def champion(add: Register, half: Schedule) -> Schedule:
    add(half)
    return half


def test_image_is_that_of_the_pipeline_under_the_champion(champion: Schedule, digits_pipeline: Pipeline) -> None:
    response = ask(engine(), label=7, seed=11)
    (wanted,) = digits_pipeline.generate([7], [11], champion)
    assert pngs(response) == [encode_png(wanted)]
    assert response.model == "champion"
    assert response.schedule is not None
    assert (response.schedule.name, response.schedule.version) == (NAME, 1)
    assert response.schedule.sha256 == champion.sha256
    assert response.schedule.compute_share == champion.compute_share
    assert abs(response.created - time.time()) < 60


def test_full_computes_everything(champion: Schedule, digits_pipeline: Pipeline) -> None:
    serving = engine()
    response = ask(serving, label=7, seed=11, model=FULL)
    (wanted,) = digits_pipeline.generate([7], [11])
    assert pngs(response) == [encode_png(wanted)]
    assert pngs(response) != pngs(ask(serving, label=7, seed=11))
    assert (response.model, response.schedule) == (FULL, None)


def test_images_of_one_request_have_seeds_in_a_row(champion: Schedule, digits_pipeline: Pipeline) -> None:
    serving = engine()
    response = ask(serving, n=3, seed=5, size="8x8", model="champion")
    assert [image.seed for image in response.data] == [5, 6, 7]
    assert pngs(response) == [encode_png(image) for image in digits_pipeline.generate([3] * 3, [5, 6, 7], champion)]
    assert len(set(pngs(response))) == 3


def test_same_request_gives_the_same_image(champion: Schedule) -> None:
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
    champion: Schedule, changes: dict[str, Any], field: str, error: type[InvalidInputError]
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


def test_models_are_the_alias_with_its_schedule_and_the_full_run(champion: Schedule) -> None:
    scheduled_entry, full_entry = engine().models().data
    assert (scheduled_entry.id, full_entry.id) == ("champion", FULL)
    assert scheduled_entry.schedule is not None
    assert scheduled_entry.schedule.sha256 == champion.sha256
    assert full_entry.schedule is None


def test_alias_that_moves_is_followed(add: Register, champion: Schedule, digits_pipeline: Pipeline) -> None:
    serving = engine(refresh_seconds=1e-6)
    before = ask(serving)
    better = measured_schedule(digits_pipeline, LESS)
    assert add(better).aliases == ("champion",)
    after = ask(serving)
    assert before.schedule is not None
    assert after.schedule is not None
    assert (before.schedule.version, after.schedule.version) == (1, 2)
    assert pngs(after) == [encode_png(digits_pipeline.generate([3], [0], better)[0])]
    assert pngs(after) != pngs(before)
    assert serving.models().data[0].schedule == after.schedule


def test_alias_is_not_looked_up_before_it_is_time(add: Register, champion: Schedule, digits_pipeline: Pipeline) -> None:
    serving = engine(refresh_seconds=3600.0)
    add(measured_schedule(digits_pipeline, LESS))
    response = ask(serving)
    assert response.schedule is not None
    assert response.schedule.version == 1


def test_alias_that_goes_away_leaves_the_last_schedule_and_is_told(
    client: MlflowClient, champion: Schedule, caplog: pytest.LogCaptureFixture
) -> None:
    serving = engine(refresh_seconds=1e-6)
    before = ask(serving)
    client.delete_registered_model_alias(NAME, "champion")
    with caplog.at_level(logging.WARNING):
        after = ask(serving)
    assert pngs(after) == pngs(before)
    assert f"{NAME}@champion" in caplog.text


def test_alias_that_moves_to_a_corrupt_schedule_leaves_the_last_one(
    add: Register, champion: Schedule, digits_pipeline: Pipeline, registry_home: Path
) -> None:
    serving = engine(refresh_seconds=1e-6)
    (first,) = registry_home.rglob("schedule.json")
    add(measured_schedule(digits_pipeline, LESS))
    (second,) = set(registry_home.rglob("schedule.json")) - {first}
    second.write_text("{")
    response = ask(serving)
    assert response.schedule is not None
    assert response.schedule.version == 1


def test_any_alias_can_be_served(client: MlflowClient, champion: Schedule) -> None:
    client.set_registered_model_alias(NAME, "fast", "1")
    serving = engine(alias="fast")
    assert ask(serving).model == "fast"
    assert [entry.id for entry in serving.models().data] == ["fast", FULL]


def test_guidance_is_that_of_the_schedule(add: Register, digits_pipeline: Pipeline) -> None:
    guided = Pipeline(digits_pipeline.model, digits_pipeline.solver, 3.0)
    schedule = measured_schedule(guided, fixed_interval_mask(4, 24, 2))
    add(schedule)
    assert pngs(ask(engine())) == [encode_png(guided.generate([3], [0], schedule)[0])]


def test_engine_without_the_alias_does_not_start(champion: Schedule) -> None:
    with pytest.raises(RegistryError, match=f"{NAME}@fast"):
        engine(alias="fast")


def test_engine_does_not_start_on_a_schedule_of_other_weights(add: Register, half: Schedule) -> None:
    other = half.model.model_copy(update={"weights_sha256": "0" * 64})
    add(Schedule.create(other, half.sampler, half.compute, half.provenance, half.cost, half.quality))
    with pytest.raises(ScheduleError, match=r"model\.weights_sha256"):
        engine()


def test_engine_does_not_start_without_a_registry(monkeypatch: pytest.MonkeyPatch, unused_port: int) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port}")
    with pytest.raises(UnreachableError, match=str(unused_port)):
        engine()
