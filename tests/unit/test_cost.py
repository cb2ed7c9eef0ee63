import pytest
from unit_factories import tiny_dit, tiny_pipeline

from l2c_ray.errors import ScheduleError
from l2c_ray.evaluation.cost import make_schedule, require_fit
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.models.macs import UnitMacs, count_macs
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.schedule import Cost, Guidance, Macs, Mask, Provenance, Schedule

WIDTH, TOKENS, TIME_FREQUENCIES, MLP_RATIO, PATCH = 8, 4, 256, 4, 2


SHIFT_AND_SCALE = WIDTH * 2 * WIDTH
ATTENTION = SHIFT_AND_SCALE + 4 * TOKENS * WIDTH * WIDTH
PRODUCTS = 2 * TOKENS * TOKENS * WIDTH
MLP = SHIFT_AND_SCALE + 2 * TOKENS * WIDTH * MLP_RATIO * WIDTH


def macs_that_are_shared(depth: int, channels: int, out_channels: int) -> int:
    embedding = TIME_FREQUENCIES * WIDTH + WIDTH * WIDTH
    patches = TOKENS * PATCH * PATCH * channels * WIDTH
    gates = depth * (embedding + 2 * WIDTH * WIDTH)
    output = embedding + WIDTH * 2 * WIDTH + TOKENS * WIDTH * PATCH * PATCH * out_channels
    return patches + gates + output


@pytest.mark.parametrize(("depth", "channels", "out_channels"), [(1, 1, 1), (2, 1, 1), (3, 4, 8)])
def test_macs_are_those_counted_by_hand(depth: int, channels: int, out_channels: int) -> None:
    macs = count_macs(tiny_dit(depth=depth, channels=channels, out_channels=out_channels))
    shared = macs_that_are_shared(depth, channels, out_channels)
    assert macs.layers == UnitMacs((ATTENTION, MLP) * depth, shared)
    assert macs.with_attention == UnitMacs((ATTENTION + PRODUCTS, MLP) * depth, shared)


def test_counting_changes_nothing(digits_model: CacheableTransformer) -> None:
    assert count_macs(digits_model) == count_macs(digits_model)
    assert all(parameter.grad is None for parameter in digits_model.parameters())


def test_cost_of_a_mask_is_the_shared_part_and_the_computed_units() -> None:
    macs = count_macs(tiny_dit(depth=1))
    mask: Mask = ((1, 1), (0, 1), (1, 0), (0, 0))
    cost = macs.cost(mask)
    shared = macs_that_are_shared(1, 1, 1)
    for count, attention in ((cost.layers, ATTENTION), (cost.with_attention, ATTENTION + PRODUCTS)):
        assert count.full == 4 * (shared + attention + MLP)
        assert count.cached == 4 * shared + 2 * attention + 2 * MLP


def test_everything_computed_costs_the_baseline() -> None:
    cost = count_macs(tiny_dit()).cost(((1,) * 4,) * 3)
    assert cost.layers.share == cost.with_attention.share == 1


def test_nothing_computed_after_step_0_still_costs_the_shared_part() -> None:
    macs = count_macs(tiny_dit()).with_attention
    share = macs.of(fixed_interval(10, 4, 10).compute).share
    per_step = macs.shared + sum(macs.units)
    assert share == pytest.approx((per_step + 9 * macs.shared) / (10 * per_step))


@pytest.mark.parametrize("interval", [1, 2, 3, 5])
def test_fixed_interval_computes_one_step_in_interval(interval: int) -> None:
    macs = count_macs(tiny_dit()).layers
    units, steps = sum(macs.units), 30
    cost = macs.of(fixed_interval(steps, 4, interval).compute)
    assert cost.full - cost.cached == units * (steps - steps // interval)


def test_mask_of_another_number_of_units_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        count_macs(tiny_dit()).cost(((1, 1, 1),))


def test_schedule_is_made_for_the_pipeline_with_its_cost() -> None:
    pipeline = tiny_pipeline(steps=4, guidance=Guidance(scale=2.0))
    table = fixed_interval(4, 4, 2)
    schedule = make_schedule(pipeline, table, Provenance(policy="fixed-interval", settings={"interval": 2}))
    schedule.require(pipeline.model.identity(), pipeline.solver.identity(Guidance(scale=2.0)))
    assert schedule.table == table
    assert schedule.cost == count_macs(pipeline.model).cost(table.compute)
    assert schedule.provenance.settings == {"interval": 2}


def claiming(count: str = "layers", full: int = 0, cached: int = 0) -> Schedule:
    """A schedule for the tiny pipeline that reuses everything at every second step, off by so much in one count."""
    made = make_schedule(tiny_pipeline(), fixed_interval(4, 4, 2), Provenance(policy="test", settings={}))
    counted: Macs = getattr(made.cost, count)
    claimed = Macs(full=counted.full + full, cached=counted.cached + cached)
    cost = Cost(**(dict(made.cost) | {count: claimed}))
    return Schedule.create(made.model, made.sampler, made.table, made.provenance, cost)


def test_schedule_that_costs_what_it_says_fits() -> None:
    require_fit(claiming(), tiny_pipeline())
    with pytest.raises(ScheduleError, match=r"sampler\.guidance"):
        require_fit(claiming(), tiny_pipeline(guidance=Guidance(scale=2.0)))


@pytest.mark.parametrize("count", ["layers", "with_attention"])
@pytest.mark.parametrize(("full", "cached"), [(1, 0), (0, -1)])
def test_schedule_that_costs_something_else_than_it_says_is_refused(count: str, full: int, cached: int) -> None:
    with pytest.raises(ScheduleError) as caught:
        require_fit(claiming(count, full, cached), tiny_pipeline())
    assert caught.value.subject == f"cost.{count}"
