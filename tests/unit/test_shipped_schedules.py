"""The schedules in the package: each fits its model, is measured, and costs less where it errs more."""

from pathlib import Path

import pytest

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.evaluation import shipped
from l2c_ray.schedule import LEARNED, Schedule


@pytest.fixture(params=["digits-dit 20", "digits-dit 50", "digits-uvit 20"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    name, steps = request.param.split()
    return Pipeline.load(name, steps=int(steps))


@pytest.fixture
def schedules(pipeline: Pipeline) -> dict[str, Schedule]:
    return shipped.shipped_schedules(pipeline)


def test_none_is_left_out(pipeline: Pipeline, schedules: dict[str, Schedule]) -> None:
    folder: Path = shipped.FOLDER / f"{pipeline.model.name}-{pipeline.solver.name}-{pipeline.solver.steps}"
    assert {file.stem for file in folder.iterdir()} == set(schedules)


def test_they_were_measured_alike_and_made_by_a_known_commit(schedules: dict[str, Schedule]) -> None:
    assert {schedule.quality.protocol for schedule in schedules.values() if schedule.quality} == {
        "frontier/1 images=512"
    }
    for schedule in schedules.values():
        assert schedule.quality
        assert len(schedule.provenance.git_commit or "") == 40


def test_tighter_budgets_cost_less_and_err_more(schedules: dict[str, Schedule]) -> None:
    learned = [schedule for schedule in schedules.values() if schedule.provenance.policy == LEARNED]
    assert len(learned) >= 3
    learned.sort(key=lambda schedule: schedule.compute_share)
    for schedule in learned:
        assert schedule.compute_share <= float(schedule.provenance.settings["budget"])
    errors = [schedule.quality.metrics["mse"] for schedule in learned if schedule.quality]
    assert errors == sorted(errors, reverse=True)
