"""Encoding images on the cluster: tasks read and crop, actors encode, this process writes shard after shard."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from l2c_ray.config.encoding import EncodingConfig, LatentSettings
from l2c_ray.data import preparing
from l2c_ray.data.latent_shards import Shard, prepare_store
from l2c_ray.data.sources.base import Part, fingerprint
from l2c_ray.data.sources.opening import open_source
from l2c_ray.distributed import cluster
from l2c_ray.errors import ConfigError, EncodingError, L2CError
from l2c_ray.models.vae import LatentEncoder
from l2c_ray.storage import addresses
from l2c_ray.storage.opening import open_store

_PIXEL_CHANNELS = 3


@dataclass(frozen=True)
class Encoded:
    """Result of a finished encoding."""

    address: str
    images: int
    shards: int
    made_now: int
    """Shards made in this session; the others were there before."""
    skipped: int
    """Broken images that were left out of the shards made now."""
    passed_over: dict[str, int]
    """Number of files, and of members of the shards made now, that were no images, by their kind."""


def encode(config: EncodingConfig, on_shard: Callable[[int, int], None]) -> Encoded:
    """Makes all shards that `latents.storage` lacks.

    Everything that the config names is listed, loaded and checked here before a worker starts.

    Args:
        on_shard: called with the number of finished shards and of all shards, at the start and after each.

    Raises:
        InvalidInputError: the config, source, autoencoder, storage or cluster is at fault, or an image is broken and
            not to be skipped.
        UnreachableError: the storage or the cluster does not answer.
        EncodingError: a worker was lost more often than `cluster.max_failures`, or latents are not finite. The shards
            that were finished stay.
    """
    store = open_store(config.latents.storage)
    source = open_source(config)
    settings = _settings(config, parts := source.parts())
    there = prepare_store(store, settings)
    gatherer = preparing.Gatherer(config.latents)
    done = {shard.number: shard for shard in there}
    missing = [part for part in parts if part.number not in done]
    if missing:
        cluster.connect()
        cluster.require(config.cluster)
        cluster.wait_for_room(config.cluster)
        on_shard(len(there), len(parts))
        for shard, content in _shards(config, missing, gatherer):
            store.put(shard.name, content)
            done[shard.number] = shard
            on_shard(len(done), len(parts))
    images = sum(shard.images for shard in done.values())
    passed_over = dict(source.passed_over + gatherer.passed_over)
    return Encoded(store.address, images, len(parts), len(missing), len(gatherer.skipped), passed_over)


def _settings(config: EncodingConfig, parts: list[Part]) -> LatentSettings:
    how = config.latents
    encoder = LatentEncoder(Path(how.vae))
    if encoder.pixel_channels != _PIXEL_CHANNELS:
        problem = f"encodes images of {encoder.pixel_channels} channels, not {_PIXEL_CHANNELS}"
        raise ConfigError("latents.vae", problem, "give an autoencoder of coloured images")
    if how.image_size % encoder.factor:
        problem = f"{how.image_size} is no multiple of {encoder.factor}, the pixels that become one latent"
        raise ConfigError("latents.image_size", problem, "take one")
    return LatentSettings(
        shards=len(parts),
        channels=encoder.channels,
        size=how.image_size // encoder.factor,
        classes=config.source.classes,
        image_size=how.image_size,
        mirrored=how.mirrored,
        seed=how.seed,
        source_sha256=fingerprint(parts),
        vae_sha256=encoder.sha256,
        scaling_factor=encoder.scaling_factor,
        shift_factor=encoder.shift_factor,
    )


def _shards(config: EncodingConfig, parts: list[Part], gatherer: preparing.Gatherer) -> Iterator[tuple[Shard, bytes]]:
    """Yields each shard when its last latent is there; all latents come through here, a small part of the pixels."""
    with _typed_errors():
        for batch in _latents(config, parts).iter_batches(batch_size=None, batch_format="numpy"):
            for values in zip(*batch.values(), strict=True):
                finished = gatherer.add(dict(zip(batch, values, strict=True)))
                if finished:
                    yield finished


def _latents(config: EncodingConfig, parts: list[Part]) -> Any:
    """A data set with a row for each image of the parts.

    Half of a worker's CPUs encode and half read, so that it takes as many as the config says.
    """
    wanted, needs = config.cluster, cluster.needs_of_a_worker(config.cluster)
    # By reference, because Ray Data shows arguments in its descriptions.
    environment = ray.put(addresses.environment())
    rows = [asdict(part) for part in parts]
    with _without_noise():
        return (
            ray.data.from_items(rows, override_num_blocks=len(rows))
            .flat_map(
                _read,
                fn_kwargs={"config": config, "environment": [environment]},
                compute=TaskPoolStrategy(size=wanted.workers * wanted.cpus_per_worker),
                num_cpus=0.5,
                max_retries=wanted.max_failures,
            )
            .map_batches(
                _Encoder,
                fn_constructor_kwargs={"config": config},
                batch_size=config.latents.batch_size,
                compute=ActorPoolStrategy(size=min(wanted.workers, len(parts))),
                num_cpus=wanted.cpus_per_worker / 2,
                num_gpus=needs.get("GPU", 0),
                max_restarts=wanted.max_failures,
                max_task_retries=wanted.max_failures,
            )
        )


@contextmanager
def _without_noise() -> Iterator[None]:
    """Turns off Ray Data's output: the command has a progress display of its own and reports errors in one line."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    for handler in logging.getLogger("ray.data").handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        # There is no other way to limit how often a lost worker is replaced, which is unlimited by default.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        yield


def _read(row: dict[str, Any], config: EncodingConfig, environment: list[Any]) -> Iterator[preparing.Row]:
    part = Part(row["number"], tuple(row["files"]), tuple(row["sizes"]), tuple(row["labels"]), tuple(row["rows"]))
    source = open_source(config, ray.get(environment[0]))
    return preparing.rows_of(source, part, config.latents)


class _Encoder:
    """The actor of a worker, which keeps the autoencoder from batch to batch."""

    def __init__(self, config: EncodingConfig) -> None:
        self._encoder = LatentEncoder(Path(config.latents.vae), "cuda" if torch.cuda.is_available() else "cpu")
        self._seed = config.latents.seed
        size = config.latents.image_size // self._encoder.factor
        self._shape = (self._encoder.channels, size, size)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        images = preparing.to_images(batch.pop("pixels"))
        noise = preparing.noise_of(list(batch["name"]), self._seed, self._shape)
        return batch | {"latent": self._encoder.encode(images, noise).half().numpy()}


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except RayError as error:
        cause = getattr(error, "cause", None) or error.__cause__
        if isinstance(cause, L2CError):
            raise cause from error
        reason = str(error).strip().splitlines()[-1]
        remedy = "submit it again, which goes on with what is there, or raise cluster.max_failures"
        raise EncodingError("encoding images", f"failed on a worker ({reason})", remedy) from error
