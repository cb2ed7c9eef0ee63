"""Learning within a budget: what it may spend, that it learns, and that what it learned runs as it was learned."""

from typing import Any

import pytest
import torch
from unit_factories import tiny_dit

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.config.learn import LearnConfig
from l2c_ray.data.digits import LabelledImages
from l2c_ray.errors import ConfigError
from l2c_ray.learning.budget_router import BudgetRouter
from l2c_ray.learning.learner import Learner
from l2c_ray.learning.learners import make_learner
from l2c_ray.learning.pair_learner import PairLearner
from l2c_ray.learning.trajectory_learner import TrajectoryLearner
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.macs import UnitMacs, count_macs
from l2c_ray.sampling.loop import noise_from_seeds, sample_images
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance

STEPS = 6
MACS = UnitMacs(units=(1, 2, 1, 2), shared=2)


def config(router: dict[str, Any], **training: Any) -> LearnConfig:
    training = {"iterations": 6, "batch_size": 2, "learning_rate": 0.1} | training
    return LearnConfig.parse({"model": {"name": "tiny"}, "router": router, "training": training}, source="test")


def learner(budget: float, **training: Any) -> TrajectoryLearner:
    model = tiny_dit()
    return TrajectoryLearner(config({"budget": budget}, **training), budget, model, make_solver("ddim", STEPS, model))


def run(learned: Learner, iterations: int) -> None:
    for _ in range(iterations):
        learned.step(lambda shared: shared)


@pytest.mark.parametrize("share", [1.0, 0.9, 0.7, 0.5])
def test_table_fills_the_share_and_never_exceeds_it(share: float) -> None:
    router = BudgetRouter(STEPS, MACS)
    torch.nn.init.normal_(router.logits, generator=torch.Generator().manual_seed(0))
    spent = MACS.of(router.table(share).compute).share
    dearest = max(MACS.units) / MACS.of(((1,) * 4,) * STEPS).full
    assert share - dearest < spent <= share


def test_highest_logits_are_computed() -> None:
    router = BudgetRouter(STEPS, MACS)
    with torch.no_grad():
        router.logits[3, 1] = 1.0
    table = router.table(router.least_share + 2.5 / MACS.of(((1,) * 4,) * STEPS).full)
    assert [(step, unit) for step in range(1, STEPS) for unit in range(4) if table.compute[step][unit]] == [(4, 1)]


def test_forecast_begins_when_two_values_are_there() -> None:
    router = BudgetRouter(4, UnitMacs(units=(1,), shared=1))
    with torch.no_grad():
        router.coefficients.fill_(0.5)
        router.logits[1] = 1.0
    table = router.table(router.least_share + 1 / 8)
    assert [row[0] for row in table.compute] == [1, 0, 1, 0]
    assert table.forecast == (((),), ((),), ((),), ((0.5,),))


def test_gates_are_hard_and_learn_as_the_scores_do() -> None:
    router = BudgetRouter(STEPS, MACS)
    gates = router.gates(0.6)
    assert set(gates.flatten().tolist()) <= {0.0, 1.0}
    (gradient,) = torch.autograd.grad(gates.sum(), router.logits)
    assert torch.allclose(gradient, torch.full_like(gradient, 0.25))


def test_what_was_learned_runs_as_it_was_learned() -> None:
    """The last training trajectory and the executor's give the same error."""
    learned = learner(0.7, iterations=8, batch_size=3)
    run(learned, 6)
    model, solver = learned._model, learned._solver
    noise, labels = learned._draw_batch()
    guidance = Guidance(scale=1.5)
    made = sample_images(model, solver, noise, labels, guidance, ScheduleExecutor(learned.table()))
    full = sample_images(model, solver, noise, labels, guidance)
    assert learned._share_now() == 0.7
    error = learned.step(lambda shared: shared).error
    assert error == pytest.approx((made - full).square().mean().item(), rel=1e-3)


def test_error_at_the_budget_shrinks(digits_model: CacheableTransformer) -> None:
    solver = make_solver("ddim", STEPS, digits_model)
    learned = TrajectoryLearner(config({"budget": 0.6}, iterations=20, batch_size=4), 0.6, digits_model, solver)
    noise, labels = noise_from_seeds(range(1000, 1016), digits_model.image_shape), torch.arange(16) % 10
    guidance = Guidance(scale=1.5)
    full = sample_images(digits_model, solver, noise, labels, guidance)

    def error() -> float:
        executor = ScheduleExecutor(learned.table())
        made = sample_images(digits_model, solver, noise, labels, guidance, executor)
        return (made - full).square().mean().item()

    before = error()
    run(learned, 20)
    assert error() < before / 3
    assert count_macs(digits_model).with_attention.of(learned.table().compute).share <= 0.6


def test_resumed_run_is_the_run_that_was_not_cut_off() -> None:
    whole, first, second = (learner(0.6) for _ in range(3))
    run(whole, 6)
    run(first, 3)
    second.load_state(first.state())
    run(second, 3)
    assert second.table() == whole.table()


def test_budget_below_what_cannot_be_reused_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"router.budget: 0.1 is less than"):
        learner(0.1)


def test_config_chooses_the_learner() -> None:
    model = tiny_dit()
    solver = make_solver("ddim", STEPS, model)
    data = LabelledImages(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.long))
    assert isinstance(make_learner(config({"lambda": 1e-3}), model, solver, data), PairLearner)
    assert isinstance(make_learner(config({"budget": 0.9}), model, solver, data), TrajectoryLearner)


def test_config_survives_the_way_to_a_worker() -> None:
    for router in ({"budget": 0.5}, {"lambda": 0.0}):
        sent = config(router)
        assert LearnConfig.parse(sent.model_dump(by_alias=True), source="config") == sent


@pytest.mark.parametrize("router", [{"lambda": 1e-4, "budget": 0.5}, {"theta": 0.5}])
def test_one_aim_and_no_more_is_asked_for(router: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="router"):
        config(router)
