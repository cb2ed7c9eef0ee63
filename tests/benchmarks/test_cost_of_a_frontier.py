"""Cost of eight budgets in one run, relative to one budget learned alone to the same error.

The run is that of jobs/configs/digits-frontier.toml, whose schedules ship in the package. One budget gets a third of
its iterations, on as many images each. If it ends with more error than the run has there, then to end as well it would
take longer, and the run costs less than three times as much; the test fails if it does not.
"""

import pytest
import torch
from learning_on_digits import GUIDANCE, error_of, learn_within

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.evaluation.shipped import shipped_schedules
from l2c_ray.models import zoo
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Schedule

BUDGETS = (0.5, 0.25)
MOST_TIMES_ONE_BUDGET = 3


@pytest.mark.parametrize("budget", BUDGETS)
def test_eight_budgets_cost_at_most_three_times_as_much_as_one(budget: float) -> None:
    torch.set_num_threads(2)
    model = zoo.load("digits-dit")
    solver = make_solver("ddim", 20, model)
    in_one_run = schedule_of(budget, Pipeline(model, solver, GUIDANCE))
    learned = in_one_run.provenance.settings
    iterations = int(learned["iterations"]) // MOST_TIMES_ONE_BUDGET
    images = int(learned["batch_size"]) * int(learned["workers"])
    alone = learn_within(budget, model, solver, 0, iterations, images)
    errors = [error_of(table, model, solver) for table in (in_one_run.table, alone)]
    print(f"\nbudget {budget}: error {errors[0]:.2e} in one run, {errors[1]:.2e} alone with a third of its iterations")
    assert errors[0] < errors[1]


def schedule_of(budget: float, pipeline: Pipeline) -> Schedule:
    """The one that the run learned for this budget."""
    (found,) = (
        schedule
        for schedule in shipped_schedules(pipeline).values()
        if schedule.provenance.settings.get("budget") == budget
    )
    return found
