"""Properties that a run takes from its objective: provenance, names and parents of schedules, lasting settings."""

from typing import Any

import pytest
import torch
from unit_factories import learn_config, tiny_dit

from l2c_ray.data.images import LabelledImages
from l2c_ray.learning.objectives import Objective, make_objective
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Table


def objective(router: dict[str, Any], **sections: dict[str, Any]) -> Objective:
    return make_objective(learn_config(router={"lambda": None} | router, **sections))


@pytest.mark.parametrize(
    ("router", "policy", "names"),
    [
        ({"lambda": 1e-3}, "l2c", [""]),
        ({"lambda": 1e-3, "theta": [0.3, 0.7]}, "l2c", ["theta=0.3", "theta=0.7"]),
        ({"budget": 0.5}, "learned", [""]),
        ({"budget": [0.8, 0.5]}, "learned", ["budget=0.8", "budget=0.5"]),
        ({"max_error": 1e-4}, "learned", [""]),
    ],
)
def test_schedules_have_a_policy_and_are_named_if_several(
    router: dict[str, Any], policy: str, names: list[str]
) -> None:
    assert objective(router).policy == policy
    assert objective(router).schedule_names("=") == names


def test_schedules_of_several_budgets_descend_from_each_other() -> None:
    assert objective({"budget": [0.8, 0.5, 0.3]}).parents(["a", "b", "c"]) == [None, "a", "b"]
    assert objective({"lambda": 1e-3, "theta": [0.3, 0.7]}).parents(["a", "b"]) == [None, None]


def test_iterations_last_where_the_share_falls_over_them() -> None:
    budget, l2c = objective({"budget": 0.5}), objective({"lambda": 1e-3})
    assert budget.lasting_settings() == budget.settings() | {"iterations": 6}
    assert l2c.lasting_settings() == l2c.settings()


def test_thresholded_router_derives_schedules_and_a_mask_none() -> None:
    model = tiny_dit()
    solver, data = make_solver("ddim", 6, model), LabelledImages(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))

    def share_of(table: Table) -> float:
        return sum(map(sum, table.compute)) / (6 * len(model.units))

    l2c, budget = (
        objective(router).make_learner(model, solver, data) for router in ({"lambda": 1e-3}, {"budget": 0.8})
    )
    derived = l2c.derived_tables([(0.3,), (0.3, 0.95)], [0.5, 0.1], share_of)
    # All scores are 0.88 at first; half is computed at every other step alone, and a tenth by no threshold.
    assert [settings["theta"] for settings, _ in derived] == [0.3, "0.3, 0.95", pytest.approx(0.88, abs=1e-2)]
    assert [share_of(table) for _, table in derived] == [1.0, pytest.approx(4 / 6), 0.5]
    assert budget.derived_tables([(0.3,)], [0.5], share_of) == []
