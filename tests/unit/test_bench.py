import json
from pathlib import Path
from typing import Any

import pytest
import torch
from unit_factories import L2C, Refused, tiny_pipeline

from l2c_ray.caching.executor import ScheduleExecutor
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.evaluation.timing import Timing, time_in_turn
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.sampling.loop import baseline_handlers, noise_from_seeds, sample_images, trajectory
from l2c_ray.schedule import Provenance, Schedule


def test_speedup_is_the_median_of_the_pairs_beside_the_promise() -> None:
    timing = Timing(baseline=(4.0, 9.0, 6.0), cached=(2.0, 3.0, 4.0), promised=2.5)
    assert timing.speedups == (2.0, 3.0, 1.5)
    assert timing.speedup == 2.0
    assert timing.kept == 0.8


def test_every_pair_is_timed_over_whole_trajectories_in_turn() -> None:
    pipeline = tiny_pipeline(steps=4)
    schedule = make_schedule(pipeline, fixed_interval(4, 4, 2), Provenance(policy="fixed-interval", settings={}))
    done: list[int] = []
    timing = time_in_turn(pipeline, schedule, batch_size=2, repeats=3, on_step=lambda count, note: done.append(count))
    assert done == list(range(1, 13))
    assert len(timing.baseline) == len(timing.cached) == 3
    assert min(timing.baseline + timing.cached) > 0
    assert timing.promised == 1 / schedule.compute_share


def test_promise_counts_the_products_of_attention() -> None:
    pipeline = tiny_pipeline(steps=2)
    schedule = make_schedule(pipeline, fixed_interval(2, 4, 2), Provenance(policy="fixed-interval", settings={}))
    timing = time_in_turn(pipeline, schedule, batch_size=1, repeats=1, on_step=lambda count, note: None)
    macs = schedule.cost.with_attention
    assert timing.promised == pytest.approx(macs.full / macs.cached)
    assert timing.promised != pytest.approx(schedule.cost.layers.full / schedule.cost.layers.cached, rel=1e-4)


@pytest.mark.parametrize("cached", [False, True])
def test_a_trajectory_ends_at_the_sampled_images(*, cached: bool) -> None:
    pipeline = tiny_pipeline(steps=4)
    table = fixed_interval(4, 4, 2)
    noise, labels = noise_from_seeds([1, 2], pipeline.model.image_shape), torch.tensor([0, 1])
    given = (pipeline.model, pipeline.solver, noise, labels, pipeline.guidance)

    def handlers() -> Any:
        return ScheduleExecutor(table) if cached else baseline_handlers

    with torch.inference_mode():
        samples = list(trajectory(*given, handlers()))
    assert len(samples) == 4
    assert torch.equal(samples[-1], sample_images(*given, handlers()))


def test_bench_prints_what_a_script_needs(l2c: L2C, half_file: Path, half: Schedule) -> None:
    finished = l2c("bench", "digits-dit", "--schedule", half_file, "--repeats", 2, "--json")
    result = json.loads(finished.out)
    assert finished.code == 0
    assert (result["model"], result["sampler"], result["steps"], result["batch_size"]) == ("digits-dit", "ddim", 4, 1)
    assert (result["dtype"], result["device"]) == ("float32", f"cpu, {torch.get_num_threads()} threads")
    assert len(result["full_seconds"]) == len(result["cached_seconds"]) == len(result["speedups"]) == 2
    assert result["promised_speedup"] == 1 / half.compute_share
    assert result["measured_over_promised"] == pytest.approx(result["speedup"] / result["promised_speedup"])


def test_bench_prints_a_table_for_a_person(l2c: L2C, half_file: Path) -> None:
    finished = l2c("bench", "digits-dit", "--schedule", half_file, "--repeats", 1, "--dtype", "bfloat16")
    assert finished.code == 0
    assert "promised speedup" in finished.out
    assert "bfloat16" in finished.out


def test_random_weights_take_a_schedule_that_is_for_any_weights(l2c: L2C, half: Schedule, tmp_path: Path) -> None:
    model = half.model.model_copy(update={"weights_sha256": None})
    anyones = Schedule.create(model, half.sampler, half.table, half.provenance, half.cost)
    path = tmp_path / "any.json"
    path.write_text(anyones.to_json())
    finished = l2c("bench", "digits-dit", "--random-weights", "--schedule", path, "--repeats", 1, "--json")
    assert json.loads(finished.out)["speedup"] > 0


def test_threads_are_those_asked_for(l2c: L2C, half_file: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        finished = l2c("bench", "digits-dit", "--schedule", half_file, "--repeats", 1, "--threads", 1, "--json")
        assert json.loads(finished.out)["device"] == "cpu, 1 threads"
    finally:
        torch.set_num_threads(before)


def test_schedule_of_other_weights_is_refused(refused: Refused, half_file: Path) -> None:
    assert "weights_sha256" in refused("bench", "digits-dit", "--random-weights", "--schedule", half_file)


def test_schedule_of_another_model_is_refused_before_weights_are_made(refused: Refused, half_file: Path) -> None:
    assert "made for digits-dit" in refused("bench", "dit-xl-2-256", "--random-weights", "--schedule", half_file)


def test_two_sources_of_weights_are_refused(refused: Refused, half_file: Path, tmp_path: Path) -> None:
    both = ("--random-weights", "--checkpoint", tmp_path)
    assert "--checkpoint" in refused("bench", "digits-dit", *both, "--schedule", half_file)


def test_weights_that_do_not_ship_are_asked_for(refused: Refused, half: Schedule, tmp_path: Path) -> None:
    model = half.model.model_copy(update={"name": "dit-s-2-256"})
    foreign = Schedule.create(model, half.sampler, half.table, half.provenance, half.cost)
    path = tmp_path / "foreign.json"
    path.write_text(foreign.to_json())
    assert "do not ship" in refused("bench", "dit-s-2-256", "--schedule", path)


def test_file_that_is_no_schedule_is_refused(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text("{}")
    assert str(path) in refused("bench", "digits-dit", "--schedule", path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there_is_refused(refused: Refused, half_file: Path) -> None:
    assert "--device" in refused("bench", "digits-dit", "--schedule", half_file, "--device", "cuda")
