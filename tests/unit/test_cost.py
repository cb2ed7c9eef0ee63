import pytest
from unit_factories import tiny_dit, tiny_pipeline

from l2c_ray.errors import ScheduleError
from l2c_ray.evaluation.cost import count_macs, make_schedule, require_fit
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.policies.fixed_interval import fixed_interval_mask
from l2c_ray.schedule import Cost, Mask, Provenance, Schedule

WIDTH, TOKENS, TIME_FREQUENCIES, MLP_RATIO, PATCH = 8, 4, 256, 4, 2


def macs_of_attention() -> int:
    projections = 4 * TOKENS * WIDTH * WIDTH
    products = 2 * TOKENS * TOKENS * WIDTH
    return projections + products


def macs_of_mlp() -> int:
    return 2 * TOKENS * WIDTH * MLP_RATIO * WIDTH


def macs_that_are_shared(depth: int, channels: int, out_channels: int) -> int:
    embedding = TIME_FREQUENCIES * WIDTH + WIDTH * WIDTH
    patches = TOKENS * PATCH * PATCH * channels * WIDTH
    modulations = depth * (embedding + WIDTH * 6 * WIDTH)
    output = embedding + WIDTH * 2 * WIDTH + TOKENS * WIDTH * PATCH * PATCH * out_channels
    return patches + modulations + output


@pytest.mark.parametrize(("depth", "channels", "out_channels"), [(1, 1, 1), (2, 1, 1), (3, 4, 8)])
def test_macs_are_those_counted_by_hand(depth: int, channels: int, out_channels: int) -> None:
    macs = count_macs(tiny_dit(depth=depth, channels=channels, out_channels=out_channels))
    assert macs.units == (macs_of_attention(), macs_of_mlp()) * depth
    assert macs.shared == macs_that_are_shared(depth, channels, out_channels)


def test_counting_changes_nothing(digits_model: CacheableTransformer) -> None:
    assert count_macs(digits_model) == count_macs(digits_model)
    assert all(parameter.grad is None for parameter in digits_model.parameters())


def test_cost_of_a_mask_is_the_shared_part_and_the_computed_units() -> None:
    macs = count_macs(tiny_dit(depth=1))
    mask: Mask = ((1, 1), (0, 1), (1, 0), (0, 0))
    cost = macs.cost(mask)
    assert cost.full == 4 * (macs.shared + macs_of_attention() + macs_of_mlp())
    assert cost.cached == 4 * macs.shared + 2 * macs_of_attention() + 2 * macs_of_mlp()


def test_everything_computed_costs_the_full_run() -> None:
    assert count_macs(tiny_dit()).cost(((1,) * 4,) * 3).compute_share == 1


def test_nothing_computed_after_step_0_still_costs_the_shared_part() -> None:
    macs = count_macs(tiny_dit())
    share = macs.cost(fixed_interval_mask(10, 4, 10)).compute_share
    per_step = macs.shared + sum(macs.units)
    assert share == pytest.approx((per_step + 9 * macs.shared) / (10 * per_step))


@pytest.mark.parametrize("interval", [1, 2, 3, 5])
def test_fixed_interval_computes_one_step_in_interval(interval: int) -> None:
    macs = count_macs(tiny_dit())
    units, steps = sum(macs.units), 30
    cost = macs.cost(fixed_interval_mask(steps, 4, interval))
    assert cost.full - cost.cached == units * (steps - steps // interval)


def test_mask_of_another_number_of_units_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        count_macs(tiny_dit()).cost(((1, 1, 1),))


def test_schedule_is_made_for_the_pipeline_with_its_cost() -> None:
    pipeline = tiny_pipeline(steps=4, guidance_scale=2.0)
    mask = fixed_interval_mask(4, 4, 2)
    schedule = make_schedule(pipeline, mask, Provenance(policy="fixed-interval", settings={"interval": 2}))
    schedule.require(pipeline.model.identity(), pipeline.solver.identity(2.0))
    assert schedule.compute == mask
    assert schedule.cost == count_macs(pipeline.model).cost(mask)
    assert schedule.provenance.settings == {"interval": 2}


def claiming(full: int, cached: int) -> Schedule:
    """A schedule for the tiny pipeline that reuses everything at every second step, off by so much in its cost."""
    made = make_schedule(tiny_pipeline(), fixed_interval_mask(4, 4, 2), Provenance(policy="test", settings={}))
    cost = Cost(count=made.cost.count, full=made.cost.full + full, cached=made.cost.cached + cached)
    return Schedule.create(made.model, made.sampler, made.compute, made.provenance, cost)


def test_schedule_that_costs_what_it_says_fits() -> None:
    require_fit(claiming(0, 0), tiny_pipeline())
    with pytest.raises(ScheduleError, match=r"sampler\.guidance_scale"):
        require_fit(claiming(0, 0), tiny_pipeline(guidance_scale=2.0))


@pytest.mark.parametrize(("full", "cached", "field"), [(1, 0, "cost.full"), (0, -1, "cost.cached")])
def test_schedule_that_costs_something_else_than_it_says_is_refused(full: int, cached: int, field: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        require_fit(claiming(full, cached), tiny_pipeline())
    assert caught.value.subject == field
