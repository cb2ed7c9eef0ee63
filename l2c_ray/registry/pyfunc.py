"""What MLflow loads a registered schedule as: a function from (label, seed) to images. Named by `loader_module`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from l2c_ray.caching.pipeline import Pipeline, to_pixels
from l2c_ray.errors import ScheduleError
from l2c_ray.models import zoo
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Schedule
from l2c_ray.storage.files import read_text

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow.models import ModelSignature

MODEL_CONFIG: dict[str, str | None] = {"checkpoint": None}
"""What `mlflow.pyfunc.load_model(..., model_config=...)` may set: a folder of weights in diffusers' layout."""


class ScheduledModel:
    """The model of a schedule, run by it."""

    def __init__(self, schedule: Schedule, checkpoint: Path | None = None) -> None:
        """Loads the weights in the folder `checkpoint`, or the embedded ones.

        Raises:
            ScheduleError: the schedule was learned with other weights.
            CheckpointError: the folder does not hold the model's weights.
        """
        self.schedule = schedule
        model = zoo.load(schedule.model.name, checkpoint)
        if schedule.model.weights_sha256 not in (model.weights_sha256, None):
            raise ScheduleError(
                "model.weights_sha256",
                f"the schedule was learned with other weights than those in {checkpoint or 'the package'}",
                'give their folder: mlflow.pyfunc.load_model(URI, model_config={"checkpoint": FOLDER})',
            )
        solver = make_solver(schedule.sampler.name, schedule.sampler.steps, model)
        self._pipeline = Pipeline(model, solver, schedule.sampler.guidance)

    def predict(self, model_input: pd.DataFrame) -> np.ndarray:
        """Images [n, channels, height, width], uint8, for the rows' columns `label` and `seed`."""
        labels, seeds = model_input["label"].tolist(), model_input["seed"].tolist()
        return to_pixels(self._pipeline.generate(labels, seeds, self.schedule)).numpy()


def signature(image_shape: tuple[int, int, int]) -> ModelSignature:
    """Of `ScheduledModel.predict`."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    inputs = Schema([ColSpec(DataType.long, "label"), ColSpec(DataType.long, "seed")])
    return ModelSignature(inputs, Schema([TensorSpec(np.dtype(np.uint8), (-1, *image_shape))]))


def _load_pyfunc(data_path: str, model_config: Mapping[str, str | None] = MODEL_CONFIG) -> ScheduledModel:
    """MLflow's entry point; `data_path` is the schedule's file."""
    schedule = Schedule.from_json(read_text(Path(data_path)), source=data_path)
    checkpoint = model_config["checkpoint"]
    return ScheduledModel(schedule, Path(checkpoint) if checkpoint else None)
