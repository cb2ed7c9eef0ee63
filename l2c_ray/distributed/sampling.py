"""Sampling the images of a measurement on the cluster: one actor per worker, each with its share of the images."""

from collections.abc import Sequence
from typing import Any, cast

import ray
import torch
from ray.exceptions import RayError

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.sampling import SamplingConfig
from l2c_ray.distributed.cluster import needs_of_a_worker
from l2c_ray.errors import LearningError
from l2c_ray.evaluation.frontier import Candidate, Sampled, Sampler


class ClusterSampler:
    """A `SampleImages` over actors that keep the model; a context manager that ends them."""

    def __init__(self, config: SamplingConfig) -> None:
        needs, limit = needs_of_a_worker(config.cluster), config.cluster.max_failures
        actor = ray.remote(_ShardSampler).options(
            num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), max_restarts=limit, max_task_retries=limit
        )
        self._actors: list[Any] = [actor.remote(config) for _ in range(config.cluster.workers)]

    def __enter__(self) -> "ClusterSampler":
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def __call__(self, candidate: Candidate, labels: Sequence[int], seeds: Sequence[int]) -> Sampled:
        """All images in their own order, and the seconds summed over the actors.

        Raises:
            LearningError: more actors were lost than `cluster.max_failures`, or sampling broke down on one.
        """
        count = len(self._actors)
        shares = _get(
            [
                actor.sample.remote(candidate, list(labels[rank::count]), list(seeds[rank::count]))
                for rank, actor in enumerate(self._actors)
                if len(labels) > rank
            ]
        )
        images = torch.empty(len(labels), *shares[0].images.shape[1:])
        for rank, made in enumerate(shares):
            images[rank::count] = made.images
        computed = tuple(mask for made in shares for mask in made.computed)
        return Sampled(images, sum(made.seconds for made in shares), candidate.compute_share, computed)


def _get(shares: list[Any]) -> list[Sampled]:
    try:
        return cast(list[Sampled], ray.get(shares))
    except RayError as error:
        reason = str(error).strip().splitlines()[-1]
        remedy = "raise cluster.max_failures or see the job's logs; the run's checkpoint has what was learned"
        raise LearningError("sampling", f"failed on a worker ({reason})", remedy) from error


class _ShardSampler:
    """The actor on one worker."""

    def __init__(self, config: SamplingConfig) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._sample = Sampler(Pipeline.from_config(config.model, config.sampler, device), config.batch_size)

    def sample(self, candidate: Candidate, labels: list[int], seeds: list[int]) -> Sampled:
        return self._sample(candidate, labels, seeds)
