"""Measuring schedules on the cluster by the frontier protocol, beside what they have to beat."""

from collections.abc import Mapping, Sequence

from l2c_ray.caching.pictures import are_pixels
from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig
from l2c_ray.config.sampling import SamplingConfig
from l2c_ray.data import digits
from l2c_ray.distributed import cluster
from l2c_ray.distributed.sampling import ClusterSampler
from l2c_ray.evaluation.candidates import standard_candidates
from l2c_ray.evaluation.frontier import FEWER_STEPS, Measurement, OnImages, measure
from l2c_ray.evaluation.plots import plot_samples
from l2c_ray.schedule import Schedule

FRONTIER_FILE = "frontier.png"
"""Artifact of a run, with what `measure_all` found."""


def measure_all(
    config: LearnConfig, pipeline: Pipeline, schedules: Mapping[str, Schedule], on_images: OnImages
) -> tuple[list[Measurement], list[bytes | None]]:
    """The full run, the schedules in their order, and the rules to beat; waits for the workers of `config` first.

    Returns:
        What all of them did, and for each schedule a picture of its samples, where the model draws pixels.
    """
    candidates = standard_candidates(pipeline, schedules)
    classes = pipeline.model.num_classes
    cluster.wait_for_room(config.cluster)
    with ClusterSampler(sampling_of(config)) as sample:
        measurements = measure(
            candidates,
            sample,
            config.evaluation.images,
            classes,
            real=digits.images_to_judge(pipeline.model.image_shape),
            chunk=config.evaluation.batch_size * config.cluster.workers,
            on_images=on_images,
        )
        if not are_pixels(pipeline.model.image_shape):
            return measurements, [None] * len(schedules)
        return measurements, [*plot_samples(candidates[: 1 + len(schedules)], sample, classes)]


def sampling_of(config: LearnConfig) -> SamplingConfig:
    """What its workers need to know to sample for the measurement."""
    return SamplingConfig(
        model=config.model,
        sampler=config.sampler,
        cluster=config.cluster,
        batch_size=config.evaluation.batch_size,
    )


def is_worth_serving(learned: Measurement, measurements: Sequence[Measurement]) -> bool:
    """Whoever wants this much compute can have it without a schedule, by fewer steps."""
    rivals = [other for other in measurements if other.curve == FEWER_STEPS]
    return all(learned.mse < rival.mse for rival in rivals if rival.compute_share <= learned.compute_share)
