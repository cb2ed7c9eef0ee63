"""Making the images of one shard in this process: labels and seeds, the sampler, the autoencoder, pixels."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from l2c_ray.caching.pictures import Pictures
from l2c_ray.caching.pipeline import Pipeline, to_pixels
from l2c_ray.config.imagenet import GenerationConfig, ShardSettings
from l2c_ray.evaluation.cost import require_fit
from l2c_ray.evaluation.imagenet import pictures
from l2c_ray.evaluation.imagenet.shards import shard_images
from l2c_ray.schedule import Schedule
from l2c_ray.storage.files import read_text


class ShardMaker:
    """A model, its sampler, its autoencoder if it makes latents, and a schedule, all of which fit together."""

    def __init__(self, config: GenerationConfig, device: str) -> None:
        """Loads them.

        Raises:
            ConfigError: there is no such model or sampler, or the model and `model.vae` do not fit together.
            CheckpointError: weights are missing or broken.
            ScheduleError, StorageError: the schedule is broken or was made for something else.
        """
        self._pipeline = Pipeline.from_config(config.model, config.sampler, device)
        vae = Path(config.model.vae) if config.model.vae else None
        self._pictures = Pictures(self._pipeline.model, vae, "model.vae", device)
        self._schedule = _read_schedule(config.images.schedule, self._pipeline)
        self._batch_size = config.images.batch_size
        self.settings = self._settings(config)
        """Settings that all shards share."""

    def make(self, number: int) -> bytes:
        """The .npz file of shard `number`; the same whenever and wherever it is made, to rounding."""
        indices = shard_images(self.settings, number)
        labels = [index % self._pipeline.model.num_classes for index in indices]
        seeds = [self.settings.first_seed + index for index in indices]
        batches = []
        for start in range(0, len(indices), self._batch_size):
            part = slice(start, start + self._batch_size)
            batches.append(self._pixels(labels[part], seeds[part]))
        return pictures.encode(torch.cat(batches).numpy(), np.array(labels))

    def _pixels(self, labels: list[int], seeds: list[int]) -> Tensor:
        """uint8 [n, height, width, channels]."""
        samples = self._pipeline.generate(labels, seeds, self._schedule, self._batch_size)
        return to_pixels(self._pictures.of(samples)).permute(0, 2, 3, 1)

    def _settings(self, config: GenerationConfig) -> ShardSettings:
        solver = self._pipeline.solver
        return ShardSettings(
            images=config.images.count,
            shard_size=config.images.shard_size,
            first_seed=config.images.first_seed,
            model=config.model.name,
            weights_sha256=self._pipeline.model.weights_sha256,
            vae_sha256=self._pictures.vae_sha256,
            sampler=solver.name,
            timesteps_sha256=hashlib.sha256(repr(solver.timesteps).encode()).hexdigest(),
            steps=solver.steps,
            guidance=str(self._pipeline.guidance),
            schedule_sha256=self._schedule.sha256 if self._schedule else None,
        )


def _read_schedule(file: str | None, pipeline: Pipeline) -> Schedule | None:
    if file is None:
        return None
    schedule = Schedule.from_json(read_text(Path(file)), source=file)
    require_fit(schedule, pipeline)
    return schedule
