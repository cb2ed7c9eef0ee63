"""MLflow's loader of registered schedules (`loader_module`): a function from labels and seeds to images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from l2c_ray.caching.pictures import Pictures, are_pixels
from l2c_ray.caching.pipeline import Pipeline, to_pixels
from l2c_ray.errors import ScheduleError
from l2c_ray.schedule import Schedule
from l2c_ray.storage.files import read_text

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow.models import ModelSignature

MODEL_CONFIG: dict[str, str | None] = {"checkpoint": None, "vae": None}
"""Keys of `mlflow.pyfunc.load_model(..., model_config=...)`: a folder of weights in diffusers' layout, and for a model
of latents the folder of its AutoencoderKL."""


class ScheduledModel:
    """A model that samples by a schedule."""

    def __init__(self, schedule: Schedule, checkpoint: Path | None = None, vae: Path | None = None) -> None:
        """Loads the weights in the folder `checkpoint`, or the embedded ones, and the autoencoder in `vae`.

        Raises:
            ScheduleError: the schedule was learned with other weights.
            ConfigError: the model makes latents, and `vae` is missing or decodes others.
            CheckpointError: a folder does not hold the weights that it should.
        """
        self.schedule = schedule
        self._pipeline = Pipeline.for_schedule(schedule, checkpoint)
        model = self._pipeline.model
        if schedule.model.weights_sha256 not in (model.weights_sha256, None):
            raise ScheduleError(
                "model.weights_sha256",
                f"the schedule was learned with other weights than those in {checkpoint or 'the package'}",
                'give their folder: mlflow.pyfunc.load_model(URI, model_config={"checkpoint": FOLDER})',
            )
        self._pictures = Pictures(model, vae, "model_config.vae")

    def predict(self, model_input: pd.DataFrame) -> np.ndarray:
        """Images uint8 [n, 1 or 3, height, width] for the columns `label` and `seed`."""
        labels, seeds = model_input["label"].tolist(), model_input["seed"].tolist()
        samples = self._pipeline.generate(labels, seeds, self.schedule)
        return to_pixels(self._pictures.of(samples)).numpy()


def signature(image_shape: tuple[int, int, int]) -> ModelSignature:
    """Signature of `ScheduledModel.predict`: pixels have the sampled shape, decoded latents 3 channels of any size."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    inputs = Schema([ColSpec(DataType.long, "label"), ColSpec(DataType.long, "seed")])
    shape = image_shape if are_pixels(image_shape) else (3, -1, -1)
    return ModelSignature(inputs, Schema([TensorSpec(np.dtype(np.uint8), (-1, *shape))]))


def _load_pyfunc(data_path: str, model_config: Mapping[str, str | None] = MODEL_CONFIG) -> ScheduledModel:
    """Entry point of MLflow; `data_path` is the schedule's file."""
    schedule = Schedule.from_json(read_text(Path(data_path)), source=data_path)
    # A version keeps the keys that it was registered with.
    checkpoint, vae = (model_config.get(key) for key in MODEL_CONFIG)
    return ScheduledModel(schedule, Path(checkpoint) if checkpoint else None, Path(vae) if vae else None)
