"""Learning within a limit: schedules keep it, beat a rule, and run as in training."""

from typing import Any

import pytest
import torch
from torch import Tensor
from unit_factories import tiny_dit

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import LearnConfig
from l2c_ray.data.images import LabelledImages
from l2c_ray.errors import CheckpointError, ConfigError
from l2c_ray.learning.l2c.learner import L2CLearner
from l2c_ray.learning.learner import Learner
from l2c_ray.learning.objectives import make_objective
from l2c_ray.learning.trajectory.budget_router import table_of
from l2c_ray.learning.trajectory.learner import TrajectoryLearner
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.macs import count_macs
from l2c_ray.policies import fixed_interval
from l2c_ray.policies.fixed_interval import FixedInterval
from l2c_ray.sampling.loop import noise_from_seeds, sample_images
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.schedule import Guidance, Table

STEPS = 6
GUIDANCE = Guidance(scale=1.5)


def config(router: dict[str, Any], **training: Any) -> LearnConfig:
    training = {"iterations": 6, "batch_size": 2, "learning_rate": 0.1} | training
    return LearnConfig.parse({"model": {"name": "tiny"}, "router": router, "training": training}, source="test")


def learner(*budgets: float, forecast: bool = True, **training: Any) -> TrajectoryLearner:
    model = tiny_dit()
    wanted = config({"budget": budgets, "forecast": forecast}, **training)
    return TrajectoryLearner(wanted, model, make_solver("ddim", STEPS, model))


def run(learned: Learner, iterations: int) -> list[float]:
    """The errors that the iterations saw."""
    return [learned.step(lambda shared: shared).error for _ in range(iterations)]


def share_of(table: Table, model: CacheableTransformer) -> float:
    return count_macs(model).with_attention.of(table.compute).share


def test_every_budget_gets_a_schedule_that_fills_it() -> None:
    budgets = (0.9, 0.75, 0.6)
    learned = learner(*budgets, iterations=30)
    run(learned, 30)
    macs = count_macs(learned._model).with_attention
    dearest = max(macs.units) / macs.of(((1,) * len(macs.units),) * STEPS).full
    for table, budget in zip(learned.tables(), budgets, strict=True):
        assert budget - dearest < share_of(table, learned._model) <= budget


def test_iterations_that_do_not_divide_still_give_every_budget_a_schedule() -> None:
    learned = learner(0.9, 0.75, 0.6, iterations=13)
    run(learned, 13)
    assert learned.done
    assert len(learned.tables()) == 3


def test_nothing_is_reused_at_a_budget_of_everything() -> None:
    learned = learner(1.0)
    assert run(learned, 6) == [0.0] * 6
    (table,) = learned.tables()
    assert {unit for row in table.compute for unit in row} == {1}


def test_learned_schedule_runs_as_in_training() -> None:
    """A training trajectory and the executor's give the same error."""
    learned = learner(0.7, iterations=8, batch_size=3)
    run(learned, 7)
    table = table_of(learned.router.mask, learned.router.coefficients)
    baseline = learned.noise_pool.baseline(learned.iteration)
    given = (learned._model, learned._solver, baseline.noise, baseline.labels, GUIDANCE)
    made = sample_images(*given, ScheduleExecutor(table))
    (error,) = run(learned, 1)
    assert any(any(coefficients) for row in table.forecast or () for coefficients in row)
    assert error == pytest.approx((made - baseline.samples[-1]).square().mean().item(), rel=1e-3)


def test_without_forecast_values_are_reused_as_they_are() -> None:
    learned = learner(0.7, forecast=False, iterations=10)
    run(learned, 10)
    (table,) = learned.tables()
    assert table.forecast is None
    assert share_of(table, learned._model) <= 0.7


def test_warm_start_without_forecast_drops_the_coefficients() -> None:
    forecasting, plain = learner(0.8, iterations=12), learner(0.6, forecast=False, iterations=12)
    run(forecasting, 12)
    assert forecasting.router.coefficients.any()
    assert plain.start_from(forecasting.state())
    run(plain, 12)
    (table,) = plain.tables()
    assert table.forecast is None


def test_learned_schedule_beats_the_fixed_interval(digits_model: CacheableTransformer) -> None:
    solver = make_solver("ddim", STEPS, digits_model)
    rival = fixed_interval.make(Pipeline(digits_model, solver, GUIDANCE), FixedInterval(interval=2))
    budget = share_of(rival, digits_model)
    learned = TrajectoryLearner(config({"budget": budget}, iterations=24, batch_size=4), digits_model, solver)
    run(learned, 24)
    (table,) = learned.tables()
    noise, labels = noise_from_seeds(range(1000, 1032), digits_model.image_shape), torch.arange(32) % 10
    baseline = sample_images(digits_model, solver, noise, labels, GUIDANCE)

    def error(table: Table) -> float:
        made = sample_images(digits_model, solver, noise, labels, GUIDANCE, ScheduleExecutor(table))
        return (made - baseline).square().mean().item()

    assert share_of(table, digits_model) <= budget
    assert error(table) < error(rival) / 4


@pytest.mark.parametrize("done", [3, 7])
def test_resumed_run_equals_an_uninterrupted_one(done: int) -> None:
    whole, first, second = (learner(0.8, 0.6, iterations=12) for _ in range(3))
    run(whole, 12)
    run(first, done)
    second.load_state(first.state())
    run(second, 12 - done)
    assert second.tables() == whole.tables()
    assert len(whole.tables()) == 2


def test_workers_draw_noise_of_their_own_and_reuse_it() -> None:
    model = tiny_dit()
    solver = make_solver("ddim", STEPS, model)
    settings = config({"budget": 0.7}, noise_pool_size=4)
    here, there = (TrajectoryLearner(settings, model, solver, rank).noise_pool for rank in (0, 1))
    noises = [here.baseline(iteration).noise for iteration in range(3)]
    assert not torch.equal(noises[0], there.baseline(0).noise)
    assert not torch.equal(noises[0], noises[1])
    assert torch.equal(noises[0], noises[2])


def test_message_to_other_workers_does_not_grow_with_the_batch() -> None:
    sizes = []

    def spy(message: Tensor) -> Tensor:
        sizes.append(message.numel())
        return message

    for batch in (1, 4):
        learned = learner(0.7, batch_size=batch)
        learned.step(spy)
    choices = learned.router.mask.numel()
    assert sizes == [5 * choices + 2] * 2


def test_swaps_are_measured_under_a_fixed_mask_and_keep_the_budget() -> None:
    learned = learner(0.7, iterations=40)
    measured = 0.0
    while not learned.done:
        run(learned, 1)
        measured = max(measured, learned.router.swaps.tallies[0, 0].item())
    # Two images in each iteration of the second of three rounds, but the last one, which decides about the swaps.
    assert measured >= 2 * 3
    assert not learned.router.swaps.pending
    (table,) = learned.tables()
    assert share_of(table, learned._model) <= 0.7


def test_budget_below_what_cannot_be_reused_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"router.budget: 0.1 is less than"):
        learner(0.1)


def test_config_chooses_the_learner() -> None:
    model = tiny_dit()
    solver = make_solver("ddim", STEPS, model)
    data = LabelledImages(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.long))
    assert isinstance(make_objective(config({"lambda": 1e-3})).make_learner(model, solver, data), L2CLearner)
    assert isinstance(make_objective(config({"budget": 0.9})).make_learner(model, solver, data), TrajectoryLearner)


def test_fewer_iterations_than_budgets_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"training.iterations: are 1, too few for 2 stages"):
        learner(0.9, 0.8, iterations=1)


def test_l2c_needs_data_of_the_models_shape_and_a_cache_step() -> None:
    model = tiny_dit()
    data = LabelledImages(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ConfigError, match=r"router.lambda: the paper's loss has no data for tiny"):
        make_objective(config({"lambda": 1e-3})).make_learner(model, make_solver("ddim", STEPS, model), data)
    data = LabelledImages(torch.zeros(2, *model.image_shape), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ConfigError, match=r"sampler.steps: 2 evaluations of dpm-solver-2 leave no step"):
        make_objective(config({"lambda": 1e-3})).make_learner(model, make_solver("dpm-solver-2", 2, model), data)


def test_config_survives_the_way_to_a_worker() -> None:
    for router in ({"budget": 0.5}, {"budget": [0.5, 0.4]}, {"lambda": 0.0}):
        sent = config(router)
        assert LearnConfig.parse(sent.model_dump(by_alias=True), source="config") == sent


@pytest.mark.parametrize(
    "router",
    [
        {"lambda": 1e-4, "budget": 0.5},
        {"lambda": 0.0, "budget": 0.5},
        {"theta": 0.5},
        {"budget": []},
        {"budget": 0.5, "time_budget": 0.5},
        {"budget": 0.5, "max_error": 1e-4},
        {"lambda": 1e-4, "max_error": 1e-4},
        {"max_error": 0.0},
        {"time_budget": 0.5},
        {"budget": [0.5, 0.6]},
        {"budget": [0.5, 0.5]},
        {"lambda": 1e-4, "theta": [0.5, 0.5]},
    ],
)
def test_config_without_exactly_one_objective_is_refused(router: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="router"):
        config(router)


def test_error_limit_leads_to_a_schedule_measured_below_it() -> None:
    model, solver = tiny_dit(), make_solver("ddim", STEPS, tiny_dit())
    ceiling = 1e-4
    learned = TrajectoryLearner(config({"max_error": ceiling}, iterations=40, noise_pool_size=32), model, solver)
    run(learned, 40)
    (table,) = learned.tables()
    assert share_of(table, model) < 1
    noise, labels = noise_from_seeds(range(32), model.image_shape), torch.arange(32) % model.num_classes
    baseline, cached = (
        sample_images(model, solver, noise, labels, GUIDANCE, *by) for by in ((), (ScheduleExecutor(table),))
    )
    assert torch.nn.functional.mse_loss(cached, baseline).item() < 3 * ceiling


def test_resumed_run_with_an_error_limit_equals_an_uninterrupted_one() -> None:
    model, solver = tiny_dit(), make_solver("ddim", STEPS, tiny_dit())
    settings = config({"max_error": 1e-4}, iterations=16, noise_pool_size=4)
    whole, first, second = (TrajectoryLearner(settings, model, solver) for _ in range(3))
    run(whole, 16)
    run(first, 7)
    second.load_state(first.state())
    run(second, 9)
    assert second.tables() == whole.tables()


def test_time_budget_is_kept_by_the_times_of_the_profile() -> None:
    model, solver = tiny_dit(), make_solver("ddim", STEPS, tiny_dit())
    times = {unit.name: 3.0 if unit.kind == "attention" else 1.0 for unit in model.units}
    profile = {"model": "tiny", "device": "d", "dtype": "float32", "batch_size": 1, "units": times, "shared": 1.0}
    learned = TrajectoryLearner(config({"time_budget": 0.6, "profile": profile}, iterations=20), model, solver)
    run(learned, 20)
    (table,) = learned.tables()
    one_evaluation = 1.0 + sum(times.values())
    computed = sum(bit * seconds for row in table.compute for bit, seconds in zip(row, times.values(), strict=True))
    share = (STEPS * 1.0 + computed) / (STEPS * one_evaluation)
    assert 0.6 - 3.0 / (STEPS * one_evaluation) < share <= 0.6
    profile["model"] = "another"
    with pytest.raises(ConfigError, match=r"router\.profile: was measured on another"):
        TrajectoryLearner(config({"time_budget": 0.6, "profile": profile}), model, solver)


def test_model_whose_units_change_shape_between_steps_is_refused() -> None:
    model, solver = tiny_dit(), make_solver("ddim", STEPS, tiny_dit())

    def forget_tokens(module: torch.nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append(1)
        return output[:, ::2] if len(calls) > STEPS // 2 else output

    calls: list[int] = []
    model.get_submodule("transformer.transformer_blocks.1.ff").register_forward_hook(forget_tokens)
    with pytest.raises(ConfigError, match=r"model\.name: blocks\.1\.mlp changes its shape between steps"):
        TrajectoryLearner(config({"budget": 0.7}), model, solver)


def test_warm_start_tightens_from_the_mask_of_a_looser_budget() -> None:
    loose, tight = learner(0.8, iterations=12), learner(0.6, iterations=12)
    run(loose, 12)
    assert tight.start_from(loose.state())
    assert torch.equal(tight.router.mask, loose.router.mask)
    run(tight, 1)
    assert tight.router.share <= loose.router.share
    state = tight.state()
    run(tight, 11)
    (table,) = tight.tables()
    assert share_of(table, tight._model) <= 0.6
    resumed = learner(0.6, iterations=12)
    resumed.load_state(state)
    run(resumed, 11)
    assert resumed.tables() == [table]
    assert not learner(0.9, iterations=12).start_from(tight.state())


def test_checkpoint_of_an_older_version_is_refused_and_starts_nothing() -> None:
    learned = learner(0.8, iterations=4)
    renamed = {name.replace("module.", "module.old"): tensor for name, tensor in learned.state().items()}
    assert not learned.start_from(renamed)
    with pytest.raises(CheckpointError, match="has other tensors than this version"):
        learned.load_state(renamed)
