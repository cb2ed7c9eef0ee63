"""The learner of the paper's objective: its draws, its updates, and how it resumes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from unit_factories import learn_config, tiny_dit

from l2c_ray.data.images import LabelledImages
from l2c_ray.data.seeding import draw_seed
from l2c_ray.learning.l2c.learner import L2CLearner
from l2c_ray.learning.progress import Progress
from l2c_ray.sampling.solvers import make_solver

STEPS = 6


def data() -> LabelledImages:
    images = torch.randn(9, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return LabelledImages(images, torch.arange(9) % 3)


def learner(rank: int = 0, model: Any = None, **sections: dict[str, Any]) -> L2CLearner:
    model = model or tiny_dit()
    solver = make_solver("ddim", STEPS, model)
    return L2CLearner(learn_config(**sections), model, solver, data(), rank)


def alone(gradient: Tensor) -> Tensor:
    return gradient


def logits(learned: L2CLearner) -> Tensor:
    return torch.stack([learned.router.row(step).detach().clone() for step in learned.router.cache_steps])


def run(learned: L2CLearner, iterations: int) -> list[Progress]:
    return [learned.step(alone) for _ in range(iterations)]


def message_of(learned: L2CLearner) -> Tensor:
    """Gradient, error and loss that the next iteration would share, [units + 2]; the learner stays as it is."""
    shared: list[Tensor] = []

    def spy(message: Tensor) -> Tensor:
        shared.append(message.clone())
        return torch.full_like(message, torch.nan)

    learned.step(spy)
    return shared[0]


def test_only_the_logits_are_learned() -> None:
    model = tiny_dit()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learned = learner(model=model)
    start = logits(learned)
    run(learned, 3)
    assert not torch.equal(logits(learned), start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_iteration_changes_no_row_but_that_of_its_own_step() -> None:
    learned = learner(training={"iterations": 12})
    for _ in range(12):
        before = logits(learned)
        learned.step(alone)
        changed = (logits(learned) != before).any(dim=1)
        assert changed.sum() == 1


def test_every_pair_of_steps_is_met_once_before_any_comes_again() -> None:
    learned = learner(training={"iterations": 9})
    pairs = len(learned.router.cache_steps)
    for _ in range(3):
        before = logits(learned)
        run(learned, pairs)
        assert (logits(learned) != before).any(dim=1).all()


def test_progress_has_error_loss_and_mean_score() -> None:
    learned = learner(router={"lambda": 0.5})
    sum_of_scores = learned.router.scores(1).sum().item()
    first = learned.step(alone)
    assert first.iteration == 1
    assert first.error > 0
    assert first.loss == pytest.approx(first.error + 0.5 * sum_of_scores, rel=1e-5)
    assert first.mean_score == pytest.approx(torch.sigmoid(logits(learned)).mean().item(), rel=1e-5)


def test_larger_lambda_computes_less() -> None:
    low, high = (learner(router={"lambda": value}, training={"iterations": 12}) for value in (0.0, 10.0))
    assert run(high, 12)[-1].mean_score < run(low, 12)[-1].mean_score


def test_without_lambda_scores_only_rise() -> None:
    learned = learner(router={"lambda": 0.0}, training={"iterations": 3, "batch_size": 32})
    start = torch.sigmoid(logits(learned)).mean()
    assert run(learned, 3)[-1].mean_score > start


def test_same_seed_gives_the_same_logits_and_another_seed_others() -> None:
    first, again, other = (learner(run={"seed": seed}) for seed in (0, 0, 1))
    assert run(first, 4) == run(again, 4)
    run(other, 4)
    assert torch.equal(logits(first), logits(again))
    assert not torch.equal(logits(first), logits(other))


def test_global_random_state_neither_matters_nor_changes() -> None:
    first, again = learner(), learner()
    torch.manual_seed(1)
    run(first, 2)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    run(again, 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(logits(first), logits(again))


@pytest.mark.parametrize("seed", [0, 1])
def test_longer_run_begins_as_a_shorter_one(seed: int) -> None:
    short, long = (learner(run={"seed": seed}, training={"iterations": count}) for count in (3, 6))
    assert run(long, 3) == run(short, 3)


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_resumed_run_equals_an_uninterrupted_one(cut: int) -> None:
    whole, first, second = learner(), learner(), learner()
    wanted = run(whole, 6)
    run(first, cut)
    second.load_state(first.state())
    assert second.iteration == cut
    assert run(second, 6 - cut) == wanted[cut:]
    assert whole.state().keys() == second.state().keys()
    assert all(torch.equal(tensor, second.state()[name]) for name, tensor in whole.state().items())


def test_state_is_a_copy_that_later_iterations_leave_alone() -> None:
    learned = learner()
    run(learned, 1)
    state = learned.state()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    run(learned, 3)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.items())


def test_run_is_done_after_its_last_iteration() -> None:
    learned = learner(training={"iterations": 2})
    assert not learned.done
    run(learned, 2)
    assert learned.done


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_loss_that_is_not_finite_is_reported_and_changes_nothing(value: float) -> None:
    learned = learner()
    run(learned, 2)
    before = learned.state()

    def breaking(message: Tensor) -> Tensor:
        return torch.cat([message[:-1], torch.tensor([value])])

    progress = learned.step(breaking)
    assert not torch.tensor(progress.loss).isfinite()
    assert progress.iteration == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in learned.state().items())


def test_data_that_is_not_finite_changes_nothing() -> None:
    model = tiny_dit()
    broken = LabelledImages(data().images * torch.nan, data().labels)
    learned = L2CLearner(learn_config(), model, make_solver("ddim", STEPS, model), broken)
    before = logits(learned)
    assert not torch.tensor(learned.step(alone).loss).isfinite()
    assert torch.equal(logits(learned), before)


def test_workers_draw_images_and_noise_of_their_own_for_the_same_pair() -> None:
    first, second = (learner(rank, cluster={"workers": 2}) for rank in (0, 1))
    assert not torch.equal(message_of(first), message_of(second))
    for learned in (first, second):
        learned.step(alone)
    moved = [(logits(learned) != logits(learner())).any(dim=1) for learned in (first, second)]
    assert torch.equal(moved[0], moved[1])


def test_workers_stay_equal_and_follow_the_mean_gradient() -> None:
    workers = [learner(rank, cluster={"workers": 2}) for rank in (0, 1)]
    start = logits(workers[0])
    progress: list[list[Progress]] = []
    means: list[Tensor] = []
    for _ in range(4):
        mean = torch.stack([message_of(worker) for worker in workers]).mean(dim=0)
        means.append(mean)
        progress.append([worker.step(constant(mean)) for worker in workers])
    assert torch.equal(logits(workers[0]), logits(workers[1]))
    assert all(first == second for first, second in progress)
    assert progress[0][0].error == pytest.approx(means[0][-2].item())
    # Adam's first move of a row is the learning rate against the sign of its gradient.
    row = (logits(workers[0]) != start).any(dim=1)
    assert row.all()
    single = learner(cluster={"workers": 2})
    single.step(constant(means[0]))
    moved = (logits(single) - start)[(logits(single) != start).any(dim=1)][0]
    assert torch.allclose(moved, -0.05 * means[0][:-2].sign(), atol=1e-3)


def constant(value: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: value


def test_every_draw_of_a_config_has_a_seed_of_its_own() -> None:
    seeds = [
        draw_seed(seed, purpose, number, rank)
        for seed in range(3)
        for purpose in ("pairs", "batch")
        for number in range(7)
        for rank in range(3)
    ]
    assert len(set(seeds)) == len(seeds)


def test_every_threshold_gives_a_schedule_of_the_same_router() -> None:
    learned = learner(router={"theta": [0.5, 0.88, 1.0]}, training={"iterations": 6})
    run(learned, 6)
    computed = [sum(map(sum, table.compute)) for table in learned.tables()]
    assert computed == sorted(computed, reverse=True)
    assert computed[0] > computed[-1]
    for theta, table in zip((0.5, 0.88, 1.0), learned.tables(), strict=True):
        assert table == learned.router.threshold(theta)


def test_warm_start_takes_the_logits_and_begins_at_iteration_0() -> None:
    taught, warm = learner(), learner(router={"lambda": 1e-2})
    run(taught, 4)
    assert warm.start_from(taught.state())
    assert torch.equal(logits(warm), logits(taught))
    assert warm.iteration == 0
    run(warm, 6)
    assert warm.done


def test_router_of_other_cache_steps_is_no_warm_start() -> None:
    model = tiny_dit()
    solver = make_solver("dpm-solver-2", STEPS, model)
    first, second = (
        L2CLearner(learn_config(router={"lambda": 1e-2, "shifted": shifted}), model, solver, data())
        for shifted in (True, False)
    )
    before = logits(second)
    assert not second.start_from(first.state())
    assert torch.equal(logits(second), before)
