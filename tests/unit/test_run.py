"""A learning run in one process: its schedules and their provenance, and the loop that trains it."""

from dataclasses import replace

import pytest
from torch import Tensor
from unit_factories import learn_config

from l2c_ray.config.search import DeriveSection
from l2c_ray.distributed.run import Run, StudyTrial
from l2c_ray.distributed.training_loop import run_iterations

SMALL = {"training": {"iterations": 5, "batch_size": 2}, "sampler": {"steps": 4}}


@pytest.fixture
def run() -> Run:
    return Run.prepare(learn_config(**SMALL, router={"theta": [0.3, 0.95]}))


def alone(tensor: Tensor) -> Tensor:
    return tensor


def test_schedules_of_a_run_state_how_to_make_them_again(run: Run) -> None:
    built = run.build_schedules()
    assert [each.settings for each in built] == [{"theta": 0.3}, {"theta": 0.95}]
    provenance = built[1].schedule.provenance
    assert provenance.policy == "l2c"
    assert provenance.settings == {**run.objective.settings(), "iterations": 0, "theta": 0.95}
    # Scores begin at 0.88.
    assert [each.schedule.table.removed_share for each in built] == [0, 1]


def test_schedules_of_a_trial_name_its_study_and_number(run: Run) -> None:
    for warm_from, began in ((None, {}), (1, {"warm_from": 1})):
        trial = replace(run, parent=StudyTrial("study", 3, warm_from))
        settings = trial.build_schedules()[0].schedule.provenance.settings
        assert settings == {**run.objective.settings(), "iterations": 0, "theta": 0.3, "study": "study", "trial": 3} | (
            began
        )


def test_schedules_are_derived_by_other_thresholds_and_budgets(run: Run) -> None:
    assert run.derive_schedules(DeriveSection()) == []
    derived = run.derive_schedules(DeriveSection(theta=(0.9,), by_phase=((0.3, 0.9),), budget=(0.6,)))
    assert [each.settings["theta"] for each in derived[:2]] == [0.9, "0.3, 0.9"]
    assert derived[2].schedule.compute_share <= 0.6


def test_resumed_run_must_share_model_sampler_and_objective(run: Run) -> None:
    lasting = run.lasting_settings()
    assert lasting == {
        **run.objective.lasting_settings(),
        "model": "digits-dit",
        "weights_sha256": run.pipeline.model.identity().weights_sha256,
        "sampler.name": "ddim",
        "sampler.steps": 4,
        "sampler.guidance_scale": 1.5,
        "sampler.guidance_rule": "standard",
    }


def test_loop_checkpoints_on_its_way_and_ends_with_the_last_iteration(run: Run) -> None:
    checkpoints: list[int] = []
    outcome = run_iterations(
        run.learner, alone, lambda progress: False, lambda: checkpoints.append(run.learner.iteration), 1
    )
    assert (outcome, run.learner.iteration, checkpoints) == ("finished", 5, [1, 2, 3, 4])


def test_loop_ends_with_the_iteration_that_was_told_to_stop(run: Run) -> None:
    outcome = run_iterations(run.learner, alone, lambda progress: progress.iteration == 2, lambda: None, 100)
    assert (outcome, run.learner.iteration) == ("stopped", 2)


def test_loop_ends_with_a_loss_that_is_not_finite() -> None:
    learner = Run.prepare(learn_config(**SMALL, router={"lambda": 1e38})).learner
    assert run_iterations(learner, alone, lambda progress: False, lambda: None, 100) == "diverged"
    assert learner.iteration == 0
