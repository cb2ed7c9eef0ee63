"""Pipelines by name, config and schedule."""

import pytest

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import ModelSection, SamplerSection
from l2c_ray.errors import ConfigError, ScheduleError
from l2c_ray.schedule import Guidance, Schedule


@pytest.mark.parametrize(("model", "sampler"), [("digits-dit", "ddim"), ("digits-uvit", "dpm-solver-2")])
def test_pipeline_samples_as_the_authors_of_its_model_unless_told(model: str, sampler: str) -> None:
    pipeline = Pipeline.load(model)
    assert (pipeline.model.name, pipeline.solver.name, pipeline.solver.steps) == (model, sampler, 20)
    assert pipeline.guidance == Guidance(scale=1.5)
    told = Pipeline.load(model, sampler="dpm-solver-pp-2m", steps=7, guidance=Guidance(scale=3))
    assert (told.solver.name, told.solver.steps, told.guidance.scale) == ("dpm-solver-pp-2m", 7, 3)


def test_pipeline_of_a_config_is_what_its_sections_say() -> None:
    sampler = SamplerSection(name="ddim", steps=6, guidance_scale=2.0)
    pipeline = Pipeline.from_config(ModelSection(name="digits-dit"), sampler)
    assert (pipeline.solver.name, pipeline.solver.steps, pipeline.guidance.scale) == ("ddim", 6, 2.0)


def test_schedule_fits_its_own_pipeline_and_none_of_other_steps(half: Schedule) -> None:
    pipeline = Pipeline.for_schedule(half)
    pipeline.require_made_for(half)
    with pytest.raises(ScheduleError, match=r"^sampler\.steps"):
        pipeline.with_steps(5).require_made_for(half)


@pytest.mark.parametrize(
    ("model", "sampler", "key"), [("none", None, "model.name"), ("digits-dit", "none", "sampler.name")]
)
def test_names_that_nothing_has_are_refused(model: str, sampler: str | None, key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: there is no "):
        Pipeline.load(model, sampler=sampler)
