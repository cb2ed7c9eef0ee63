from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from lineages import add
from mlflow import MlflowClient
from registry_factories import retrained_digits
from tiny_models import save_tiny_autoencoder
from unit_factories import measured_schedule

from l2c_ray.caching.pipeline import Pipeline, to_pixels
from l2c_ray.errors import ConfigError, L2CError, ScheduleError
from l2c_ray.models.vae import LatentDecoder
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.registry.tracking import TrackedRun
from l2c_ray.schedule import Schedule


def test_champion_draws_what_the_pipeline_draws(
    client: MlflowClient, run: TrackedRun, digits_pipeline: Pipeline, half: Schedule
) -> None:
    add(client, run, half)
    model = mlflow.pyfunc.load_model("models:/digits-dit-ddim-4@champion")
    made = model.predict(pd.DataFrame({"label": [3, 8], "seed": [0, 123]}))
    wanted = to_pixels(digits_pipeline.generate([3, 8], [0, 123], half)).numpy()
    assert made.dtype == np.uint8
    assert np.array_equal(made, wanted)


def test_champion_refuses_a_label_that_is_no_class(client: MlflowClient, run: TrackedRun, half: Schedule) -> None:
    add(client, run, half)
    model = mlflow.pyfunc.load_model("models:/digits-dit-ddim-4@champion")
    with pytest.raises(L2CError, match="label"):
        model.predict(pd.DataFrame({"label": [10], "seed": [0]}))


@pytest.fixture
def retrained(tmp_path: Path) -> Path:
    return retrained_digits(tmp_path / "retrained")


def test_version_for_weights_of_a_folder_is_loaded_with_them(
    client: MlflowClient, run: TrackedRun, retrained: Path
) -> None:
    pipeline = Pipeline.load("digits-dit", retrained, steps=4)
    schedule = measured_schedule(pipeline, fixed_interval(4, 24, 2))
    registered = add(client, run, schedule)
    loaded = mlflow.pyfunc.load_model(registered.uri, model_config={"checkpoint": str(retrained)})
    made = loaded.predict(pd.DataFrame({"label": [3], "seed": [7]}))
    assert np.array_equal(made, to_pixels(pipeline.generate([3], [7], schedule)).numpy())
    with pytest.raises(ScheduleError, match="model_config=") as caught:
        mlflow.pyfunc.load_model(registered.uri)
    assert caught.value.subject == "model.weights_sha256"


def test_version_for_the_embedded_weights_is_not_loaded_with_others(
    client: MlflowClient, run: TrackedRun, half: Schedule, retrained: Path
) -> None:
    registered = add(client, run, half)
    with pytest.raises(ScheduleError, match=str(retrained)):
        mlflow.pyfunc.load_model(registered.uri, model_config={"checkpoint": str(retrained)})


def test_version_for_a_model_of_latents_is_loaded_with_its_autoencoder(
    client: MlflowClient, run: TrackedRun, latents: Pipeline, tmp_path: Path
) -> None:
    schedule = measured_schedule(latents, fixed_interval(4, 4, 2))
    registered = add(client, run, schedule, image_shape=(4, 4, 4))
    weights = {"checkpoint": str(tmp_path)}
    with pytest.raises(ConfigError, match="model_config.vae: is missing, and tiny makes latents of 4 channels"):
        mlflow.pyfunc.load_model(registered.uri, model_config=weights)
    vae = save_tiny_autoencoder(tmp_path / "vae")
    loaded = mlflow.pyfunc.load_model(registered.uri, model_config=weights | {"vae": str(vae)})
    made = loaded.predict(pd.DataFrame({"label": [1], "seed": [7]}))
    wanted = to_pixels(LatentDecoder(vae).decode(latents.generate([1], [7], schedule)))
    assert np.array_equal(made, wanted.numpy())
    assert loaded.metadata.get_output_schema().inputs[0].shape == (-1, 3, -1, -1)


@pytest.mark.filterwarnings("error:.*input example")
def test_registering_with_weights_of_ones_own_says_nothing(
    client: MlflowClient, run: TrackedRun, retrained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pipeline = Pipeline.load("digits-dit", retrained, steps=4)
    add(client, run, measured_schedule(pipeline, fixed_interval(4, 24, 2)))
    assert capfd.readouterr() == ("", "")
