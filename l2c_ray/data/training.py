"""The training images that a config names."""

import os
from collections.abc import Mapping

from l2c_ray.config.learn import LearnConfig
from l2c_ray.data import digits
from l2c_ray.data.images import TrainingImages
from l2c_ray.storage.opening import open_store


def open_training_images(
    config: LearnConfig, rank: int = 0, environment: Mapping[str, str] = os.environ
) -> TrainingImages:
    """The share of worker `rank` of `cluster.workers` in the digits, or in the latents that the config names.

    Args:
        environment: as for `open_store`.

    Raises:
        ConfigError: there are fewer shards of latents than workers, or no latents.
        StorageError, UnreachableError: the latents cannot be read or are not all there.
    """
    data, workers = config.data, config.cluster.workers
    if data.latents is None:
        return digits.load().shard(rank, workers)

    from l2c_ray.data.latents import LatentImages

    store = open_store(data.latents, environment)
    return LatentImages(store, config.run.seed, rank, workers, data.shuffle_shards)
