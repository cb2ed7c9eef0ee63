"""Generating images on the cluster: workers make shard after shard, and lost workers are replaced."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util import ActorPool

from l2c_ray.config.imagenet import GenerationConfig
from l2c_ray.distributed import cluster
from l2c_ray.errors import L2CError, SamplingError
from l2c_ray.evaluation.imagenet.making import ShardMaker
from l2c_ray.evaluation.imagenet.shards import prepare_store, shard_name, shard_numbers
from l2c_ray.storage import addresses
from l2c_ray.storage.opening import open_store


@dataclass(frozen=True)
class Generated:
    """Result of a finished generation."""

    address: str
    images: int
    shards: int
    made_now: int
    """Shards made in this session; the others were there before."""


def generate(config: GenerationConfig, on_shard: Callable[[int, int], None]) -> Generated:
    """Makes all shards that `images.storage` lacks.

    Everything that the config names is loaded and checked here before a worker starts.

    Args:
        on_shard: called with the number of finished shards and of all shards, at the start and after each.

    Raises:
        InvalidInputError: the config, weights, storage or cluster is at fault.
        UnreachableError: the storage or the cluster does not answer.
        SamplingError: a worker was lost more often than `cluster.max_failures`, or images are not finite. The shards
            that were finished stay.
    """
    store = open_store(config.images.storage)
    settings = ShardMaker(config, "cpu").settings
    missing = prepare_store(store, settings)
    total = len(shard_numbers(settings))
    done = total - len(missing)
    if missing:
        cluster.connect()
        cluster.require(config.cluster)
        cluster.wait_for_room(config.cluster)
        on_shard(done, total)
        with _workers(config, len(missing)) as pool, _typed_errors():
            for _ in pool.map_unordered(lambda worker, number: worker.make.remote(number), missing):
                done += 1
                on_shard(done, total)
    return Generated(store.address, settings.images, total, len(missing))


@contextmanager
def _workers(config: GenerationConfig, shards: int) -> Iterator[ActorPool]:
    needs, limit = cluster.needs_of_a_worker(config.cluster), config.cluster.max_failures
    actor = ray.remote(_Worker).options(
        num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), max_restarts=limit, max_task_retries=limit
    )
    count = min(config.cluster.workers, shards)
    environment = ray.put(addresses.environment())
    actors: list[Any] = [actor.remote(config, environment) for _ in range(count)]
    try:
        yield ActorPool(actors)
    finally:
        for each in actors:
            ray.kill(each)


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except RayError as error:
        if isinstance(error, RayTaskError) and isinstance(error.cause, L2CError):
            raise error.cause from error
        reason = str(error).strip().splitlines()[-1]
        remedy = "submit it again, which goes on with what is there, or raise cluster.max_failures"
        raise SamplingError("generating images", f"failed on a worker ({reason})", remedy) from error


class _Worker:
    """The actor of a worker, which keeps the model from shard to shard."""

    def __init__(self, config: GenerationConfig, environment: dict[str, str]) -> None:
        self._store = open_store(config.images.storage, environment)
        self._maker = ShardMaker(config, "cuda" if torch.cuda.is_available() else "cpu")

    def make(self, number: int) -> None:
        self._store.put(shard_name(number), self._maker.make(number))
