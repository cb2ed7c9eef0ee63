from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from unit_factories import small_schedule, tiny_pipeline

from l2c_ray.data import digits
from l2c_ray.errors import CheckpointError, StorageError
from l2c_ray.evaluation import classifier
from l2c_ray.evaluation.classifier_training import train_and_write
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.evaluation.frontier import Candidate, Measurement, Sampler, measure, standard_candidates
from l2c_ray.evaluation.plots import plot_frontier, plot_images, plot_schedule
from l2c_ray.evaluation.quality import frechet_distance, mean_squared_error, peak_signal_to_noise
from l2c_ray.policies.fixed_interval import fixed_interval_mask
from l2c_ray.schedule import Cost, Provenance, Schedule

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def real() -> Tensor:
    return digits.load().images


def measurement(**values: float | None) -> Measurement:
    defaults: dict[str, Any] = {"compute_share": 0.5, "seconds": 1.0, "speedup": 2.0, "mse": 1e-3, "psnr": 36.0}
    defaults |= {"frechet_to_full": 0.1, "frechet_to_real": 1.0}
    return Measurement(name="mine", **(defaults | values))


def costing(cached: int) -> Schedule:
    return small_schedule(cost=Cost(count="layers+attention", full=1000, cached=cached))


def test_mean_squared_error_is_over_all_pixels() -> None:
    images = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 0.5]]]])
    assert mean_squared_error(images, torch.zeros(2, 1, 1, 2)) == pytest.approx((1 + 0.25) / 4)
    assert mean_squared_error(images, images) == 0


def test_peak_signal_to_noise_of_a_range_of_2_has_no_value_without_error() -> None:
    assert peak_signal_to_noise(4.0) == pytest.approx(0)
    assert peak_signal_to_noise(0.04) == pytest.approx(20)
    assert peak_signal_to_noise(0.0) is None


def test_frechet_distance_of_a_set_to_itself_in_any_order_is_nothing(real: Tensor) -> None:
    images = real[:200]
    assert frechet_distance(images, images.flip(0)) == pytest.approx(0, abs=1e-3)


def test_frechet_distance_grows_with_the_damage(real: Tensor) -> None:
    images, reference = real[:400], real[400:800]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    distances = [frechet_distance(images + scale * noise, reference) for scale in (0.0, 0.5, 1.0)]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_frechet_distance_sees_missing_classes(real: Tensor) -> None:
    labels = digits.load().labels
    assert frechet_distance(real[labels < 5], real) > 5 * frechet_distance(real[::2], real)


def test_frechet_distance_of_broken_images_is_not_zero(real: Tensor) -> None:
    try:
        distance = frechet_distance(torch.full_like(real[:50], torch.nan), real)
    except (ArithmeticError, RuntimeError, ValueError):
        return
    assert distance != 0


def test_classifier_names_real_digits_and_no_other(real: Tensor) -> None:
    judge, labels = classifier.load(), digits.load().labels
    assert judge.accuracy(real, labels) > 0.98
    assert judge.accuracy(real.flip(0), labels) < 0.3


def test_classifier_without_its_file_is_refused_naming_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "WEIGHTS", tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        classifier.load()


def test_trained_classifier_is_written_with_its_card(tmp_path, monkeypatch: pytest.MonkeyPatch, real: Tensor) -> None:
    folder = tmp_path / "classifier"
    card = train_and_write(folder, epochs=3)
    assert (folder / "README.md").read_text() == card
    monkeypatch.setattr(classifier, "WEIGHTS", folder / classifier.WEIGHTS.name)
    assert classifier.load().accuracy(real, digits.load().labels) > 0.8
    assert "1440 images to train, 357 held out" in card


def test_classifier_is_not_trained_for_a_place_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="file"):
        train_and_write(tmp_path / "file", epochs=10**9)
    assert (tmp_path / "file").read_text() == "mine"


def test_measurements_are_rows_in_the_order_of_the_candidates_on_the_same_images(real: Tensor) -> None:
    candidates = [Candidate("full", 4, None, 1.0), Candidate("half", 2, None, 0.5), Candidate("same", 4, None, 1.0)]
    asked: list[tuple[str, list[int], list[int]]] = []

    def sample(candidate: Candidate, labels: Sequence[int], seeds: Sequence[int]) -> tuple[Tensor, float]:
        asked.append((candidate.name, list(labels), list(seeds)))
        return real[:12] + (0.1 if candidate.name == "half" else 0.0), candidate.steps / 4

    rows = measure(candidates, sample, 12, num_classes=10, real=real[:50])
    labels = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert asked == [(name, labels, list(range(10000, 10012))) for name in ("full", "half", "same")]
    assert [row.name for row in rows] == ["full", "half", "same"]
    assert [row.compute_share for row in rows] == [1.0, 0.5, 1.0]
    assert [row.seconds for row in rows] == [1.0, 0.5, 1.0]
    assert [row.speedup for row in rows] == [1.0, 2.0, 1.0]
    assert [row.mse for row in rows] == pytest.approx([0, 0.01, 0])
    assert rows[1].psnr == pytest.approx(26.0206, rel=1e-3)
    assert (rows[0].psnr, rows[2].psnr) == (None, None)
    assert rows[1].frechet_to_full > rows[2].frechet_to_full


def test_quality_of_a_schedule_is_what_does_not_depend_on_speed_to_six_digits() -> None:
    quality = measurement(mse=0.00123456789, psnr=None).quality(512)
    assert quality.protocol == "frontier/1 images=512"
    assert quality.metrics == {"mse": 0.00123457, "frechet_to_full": 0.1, "frechet_to_real": 1.0}


@pytest.mark.parametrize(
    ("cached", "steps"),
    [([620], [12]), ([550], [11]), ([600], [12]), ([599], [11]), ([40], [1]), ([620, 350, 629], [12, 7])],
)
def test_fewer_steps_are_as_many_as_each_compute_share_buys(cached: list[int], steps: list[int]) -> None:
    schedules = {str(cost): costing(cost) for cost in cached}
    candidates = standard_candidates(tiny_pipeline(steps=20), schedules)
    fewer = [candidate for candidate in candidates if candidate.schedule is None and candidate.name != "full"]
    assert [candidate.steps for candidate in fewer] == steps
    assert [candidate.compute_share for candidate in fewer] == [count / 20 for count in steps]


def test_fewer_steps_are_not_one_too_few_by_rounding() -> None:
    assert 580 / 1000 * 50 < 29
    candidates = standard_candidates(tiny_pipeline(steps=50), {"mine": costing(580)})
    assert [candidate.steps for candidate in candidates if candidate.name.endswith(" steps")] == [29]


def test_candidates_are_the_full_run_then_the_schedules_then_the_rules_to_beat() -> None:
    mine = costing(620)
    candidates = standard_candidates(tiny_pipeline(steps=20), {"mine": mine})
    assert [candidate.name for candidate in candidates] == ["full", "mine", "ddim, 12 steps", "fixed interval 2"]
    assert len({candidate.name for candidate in candidates}) == len(candidates)
    assert (candidates[0].steps, candidates[0].schedule, candidates[0].compute_share) == (20, None, 1.0)
    assert candidates[1].schedule == mine
    interval = candidates[-1].schedule
    assert interval is not None
    assert interval.compute == fixed_interval_mask(20, 4, 2)
    assert candidates[-1].compute_share == interval.compute_share


def test_sampler_makes_the_images_of_the_pipeline_under_each_candidate() -> None:
    pipeline = tiny_pipeline(steps=4)
    schedule = make_schedule(pipeline, fixed_interval_mask(4, 4, 2), Provenance(policy="test", settings={}))
    sampler = Sampler(pipeline.model, "ddim", 1.5, batch_size=2)
    for candidate, wanted in [
        (Candidate("full", 4, None, 1.0), pipeline.generate([0, 1, 2], [5, 6, 7], None, 2)),
        (Candidate("mine", 4, schedule, 0.5), pipeline.generate([0, 1, 2], [5, 6, 7], schedule, 2)),
        (Candidate("fewer", 2, None, 0.5), tiny_pipeline(steps=2).generate([0, 1, 2], [5, 6, 7], None, 2)),
    ]:
        images, seconds = sampler(candidate, [0, 1, 2], [5, 6, 7])
        assert torch.equal(images, wanted)
        assert seconds > 0


def test_plots_are_png_files(real: Tensor) -> None:
    assert plot_schedule(small_schedule()).startswith(PNG)
    assert plot_schedule(small_schedule(), torch.rand(3, 4)).startswith(PNG)
    assert plot_frontier([measurement(mse=0.0), measurement()]).startswith(PNG)
    assert plot_images([("first", real[:3]), ("second", real[3:6])]).startswith(PNG)
