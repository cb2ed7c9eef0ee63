"""Measuring schedules by the frontier protocol, on the cluster or in this process."""

from collections.abc import Mapping
from dataclasses import dataclass

from l2c_ray.caching.pictures import are_pixels
from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig
from l2c_ray.config.sampling import SamplingConfig
from l2c_ray.data import digits
from l2c_ray.distributed import cluster
from l2c_ray.distributed.sampling import ClusterSampler
from l2c_ray.evaluation.candidates import baseline, scheduled, standard_candidates
from l2c_ray.evaluation.comparison import Comparison
from l2c_ray.evaluation.frontier import Candidate, Measurement, OnImages, SampleImages, measure
from l2c_ray.evaluation.plots import plot_samples
from l2c_ray.schedule import Schedule


@dataclass(frozen=True)
class MeasuredSchedules:
    """Results of schedules beside their rivals."""

    comparison: Comparison[Measurement]
    samples: Mapping[str, bytes]
    """A picture of samples by schedule; none for a model that draws no pixels."""


def measure_beside_rivals(
    config: LearnConfig, pipeline: Pipeline, schedules: Mapping[str, Schedule], on_images: OnImages
) -> MeasuredSchedules:
    """Measures the schedules and their rivals on the cluster; waits for room for the config's workers first."""
    candidates = standard_candidates(pipeline, schedules)
    model = pipeline.model
    cluster.wait_for_room(config.cluster)
    with ClusterSampler(_sampling_config(config)) as sample:
        measured = _measure(config, pipeline, candidates, sample, on_images)
        samples = plot_samples(candidates, sample, model.num_classes) if are_pixels(model.image_shape) else {}
    return MeasuredSchedules(measured, samples)


def measure_alone(
    config: LearnConfig, pipeline: Pipeline, schedules: Mapping[str, Schedule], sample: SampleImages | None
) -> dict[str, Measurement]:
    """Measures the schedules beside the baseline, by name.

    Args:
        sample: makes the images in this process; None for the cluster's workers.
    """
    candidates = Comparison(
        baseline(pipeline), {name: scheduled(name, schedule) for name, schedule in schedules.items()}
    )
    if sample is not None:
        return _measure(config, pipeline, candidates, sample).schedules
    with ClusterSampler(_sampling_config(config)) as on_cluster:
        return _measure(config, pipeline, candidates, on_cluster).schedules


def with_quality(
    config: LearnConfig, schedules: Mapping[str, Schedule], measured: Mapping[str, Measurement]
) -> dict[str, Schedule]:
    """The schedules with their measured quality, by name."""
    images = config.evaluation.images
    return {name: schedule.with_quality(measured[name].quality(images)) for name, schedule in schedules.items()}


def _measure(
    config: LearnConfig,
    pipeline: Pipeline,
    candidates: Comparison[Candidate],
    sample: SampleImages,
    on_images: OnImages = lambda progress: None,
) -> Comparison[Measurement]:
    model, evaluation = pipeline.model, config.evaluation
    return measure(
        candidates,
        sample,
        evaluation.images,
        model.num_classes,
        real=digits.images_to_judge(model.image_shape),
        chunk=evaluation.batch_size * config.cluster.workers,
        on_images=on_images,
    )


def _sampling_config(config: LearnConfig) -> SamplingConfig:
    return SamplingConfig(
        model=config.model,
        sampler=config.sampler,
        cluster=config.cluster,
        batch_size=config.evaluation.batch_size,
    )
