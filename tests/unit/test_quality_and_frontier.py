from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from unit_factories import small_schedule, tiny_pipeline

from l2c_ray.caching.dynamic import FirstBlockCache, Threshold
from l2c_ray.data import digits
from l2c_ray.errors import CheckpointError, StorageError
from l2c_ray.evaluation import classifier
from l2c_ray.evaluation.classifier_training import train_and_write
from l2c_ray.evaluation.comparison import Comparison
from l2c_ray.evaluation.cost import make_schedule
from l2c_ray.evaluation.frontier import Candidate, ImageProgress, Measurement, Sampled, Sampler, measure
from l2c_ray.evaluation.plots import plot_frontier, plot_frontier_over_time, plot_images, plot_schedule
from l2c_ray.evaluation.quality import (
    ErrorTally,
    frechet_distance,
    kernel_distance,
    peak_signal_to_noise,
    structural_similarity,
)
from l2c_ray.models.macs import count_macs
from l2c_ray.policies.fixed_interval import fixed_interval
from l2c_ray.schedule import Provenance

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def real() -> Tensor:
    return digits.load().images


@pytest.fixture(scope="module")
def features(real: Tensor) -> Tensor:
    return classifier.load()(real)


def damaged(images: Tensor, scale: float) -> Tensor:
    return images + scale * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


def measurement(**values: Any) -> Measurement:
    defaults: dict[str, Any] = {"compute_share": 0.5, "seconds": 1.0, "speedup": 2.0, "mse": 1e-3}
    defaults |= {
        "removed_share": 0.8,
        "psnr": 36.0,
        "ssim": 0.9,
        "frechet_to_full": 0.1,
        "frechet_to_real": 1.0,
        "kernel_to_full": 2.0,
    }
    return Measurement(**({"name": "mine", "curve": "learned"} | defaults | values))


def test_errors_over_chunks_are_those_over_all_images(real: Tensor) -> None:
    images, reference = damaged(real[:10], 0.1), real[:10]
    tally = ErrorTally(classifier.load())
    for part in (slice(0, 7), slice(7, 10)):
        tally.add(images[part], reference[part])
    assert tally.mse == pytest.approx((images - reference).square().mean().item(), rel=1e-5)
    assert tally.ssim == pytest.approx(structural_similarity(images, reference), rel=1e-5)
    assert tally.features is not None
    assert torch.allclose(tally.features, classifier.load()(images), atol=1e-4)


def test_images_that_nobody_can_judge_have_errors_and_no_features() -> None:
    images = torch.zeros(2, 4, 16, 16)
    tally = ErrorTally(None)
    tally.add(images + 0.5, images)
    assert tally.mse == pytest.approx(0.25)
    assert tally.features is None


def test_peak_signal_to_noise_of_a_range_of_2_has_no_value_without_error() -> None:
    assert peak_signal_to_noise(4.0) == pytest.approx(0)
    assert peak_signal_to_noise(0.04) == pytest.approx(20)
    assert peak_signal_to_noise(0.0) is None


def test_structural_similarity_falls_from_1_with_the_damage(real: Tensor) -> None:
    similar = [structural_similarity(damaged(real[:50], scale), real[:50]) for scale in (0.0, 0.1, 0.5)]
    assert similar[0] == pytest.approx(1)
    assert 1 > similar[1] > similar[2] > 0


def test_frechet_distance_of_a_set_to_itself_in_any_order_is_nothing(features: Tensor) -> None:
    assert frechet_distance(features[:200], features[:200].flip(0)) == pytest.approx(0, abs=1e-3)


def test_distances_of_sets_grow_with_the_damage(real: Tensor, features: Tensor) -> None:
    judge, reference = classifier.load(), features[:400]
    made = [judge(damaged(real[:400], scale)) for scale in (0.0, 0.2, 0.5, 1.0)]
    for distance in (frechet_distance, kernel_distance):
        values = [distance(each, reference) for each in made]
        assert values == sorted(values)
        assert values[0] == pytest.approx(0, abs=1e-3)


def test_kernel_distance_is_seeded_and_leaves_other_draws_alone(features: Tensor) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    first = kernel_distance(features[:60], features[100:160])
    assert torch.equal(torch.rand(1), wanted)
    assert kernel_distance(features[:60], features[100:160]) == first


def test_frechet_distance_sees_missing_classes(features: Tensor) -> None:
    labels = digits.load().labels
    assert frechet_distance(features[labels < 5], features) > 5 * frechet_distance(features[::2], features)


def test_frechet_distance_of_broken_images_is_not_zero(features: Tensor) -> None:
    try:
        distance = frechet_distance(torch.full_like(features[:50], torch.nan), features)
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


def test_measurements_are_of_all_candidates_on_the_same_images(real: Tensor) -> None:
    full = Candidate("full", "full", 4, None, 1.0)
    half, same = Candidate("half", "fewer steps", 2, None, 0.5), Candidate("same", "other", 4, None, 1.0)
    asked: list[tuple[str, list[int], list[int]]] = []
    told: list[ImageProgress] = []

    def sample(candidate: Candidate, labels: Sequence[int], seeds: Sequence[int]) -> Sampled:
        asked.append((candidate.name, list(labels), list(seeds)))
        images = real[: len(labels)] + (0.1 if candidate.name == "half" else 0.0)
        return Sampled(images, len(labels) * candidate.steps / 48, candidate.compute_share)

    measured = measure(Comparison(full, {"half": half}, (same,)), sample, 12, 10, real[:50], 8, told.append)
    assert (measured.baseline.name, list(measured.schedules), len(measured.rivals)) == ("full", ["half"], 1)
    rows = list(measured)
    first, rest = [0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 0, 1]
    assert asked == [(name, first, list(range(10000, 10008))) for name in ("full", "half", "same")] + [
        (name, rest, list(range(10008, 10012))) for name in ("full", "half", "same")
    ]
    assert [(each.candidate, each.done) for each in told] == [
        *(("", 0), ("full", 8), ("half", 16), ("same", 24), ("full", 28), ("half", 32), ("same", 36))
    ]
    assert {(each.candidates, each.images, each.total) for each in told} == {(3, 12, 36)}
    # By compute: an image of half the steps is half the work.
    assert [each.share for each in told] == pytest.approx([0, 8 / 30, 12 / 30, 20 / 30, 24 / 30, 26 / 30, 1])
    assert [(row.name, row.curve) for row in rows] == [("full", "full"), ("half", "fewer steps"), ("same", "other")]
    assert [row.compute_share for row in rows] == [1.0, 0.5, 1.0]
    assert [row.seconds for row in rows] == pytest.approx([1.0, 0.5, 1.0])
    assert [row.speedup for row in rows] == pytest.approx([1.0, 2.0, 1.0])
    assert [row.mse for row in rows] == pytest.approx([0, 0.01, 0])
    assert rows[1].psnr == pytest.approx(26.0206, rel=1e-3)
    assert (rows[0].psnr, rows[2].psnr) == (None, None)
    assert rows[1].ssim < rows[2].ssim == 1
    assert rows[1].frechet_to_full is not None
    assert rows[2].frechet_to_full is not None
    assert rows[1].frechet_to_full > rows[2].frechet_to_full
    assert rows[2].kernel_to_full == 0


def test_speedup_is_the_median_over_chunks_beside_the_baseline() -> None:
    # The machine is three times slower during the second chunk, and stumbles over one candidate.
    seconds = iter([1.0, 0.5, 3.0, 1.5, 1.0, 40.0])

    def sample(candidate: Candidate, labels: Sequence[int], seeds: Sequence[int]) -> Sampled:
        return Sampled(torch.zeros(len(labels), 4, 16, 16), next(seconds), candidate.compute_share)

    candidates = Comparison(
        Candidate("full", "full", 4, None, 1.0), {}, (Candidate("half", "fewer steps", 2, None, 0.5),)
    )
    full, half = measure(candidates, sample, 6, 10, real=None, chunk=2)
    assert (full.speedup, half.speedup) == (1.0, 2.0)
    assert (half.frechet_to_full, half.frechet_to_real, half.kernel_to_full) == (None, None, None)


def test_quality_of_a_schedule_is_independent_of_speed() -> None:
    quality = measurement(mse=0.00123456789, psnr=None, kernel_to_full=None).quality(512)
    assert quality.protocol == "frontier/1 images=512"
    assert quality.metrics == {"mse": 0.00123457, "ssim": 0.9, "frechet_to_full": 0.1, "frechet_to_real": 1.0}


def test_sampler_makes_the_images_of_the_pipeline_under_each_candidate() -> None:
    pipeline = tiny_pipeline(steps=4)
    schedule = make_schedule(pipeline, fixed_interval(4, 4, 2), Provenance(policy="test", settings={}))
    sampler = Sampler(pipeline, batch_size=2)
    for candidate, wanted in [
        (Candidate("full", "", 4, None, 1.0), pipeline.generate([0, 1, 2], [5, 6, 7], None, 2)),
        (Candidate("mine", "", 4, schedule, 0.5), pipeline.generate([0, 1, 2], [5, 6, 7], schedule, 2)),
        (Candidate("fewer", "", 2, None, 0.5), tiny_pipeline(steps=2).generate([0, 1, 2], [5, 6, 7], None, 2)),
    ]:
        images, seconds, share, _ = sampler(candidate, [0, 1, 2], [5, 6, 7])
        assert torch.equal(images, wanted)
        assert seconds > 0
        assert share == candidate.compute_share


@pytest.mark.parametrize("threshold", [0.0, 1e9])
def test_share_of_a_dynamic_candidate_is_what_its_executor_computed(threshold: float) -> None:
    pipeline = tiny_pipeline(steps=4)
    executor = partial(FirstBlockCache, pipeline.model.units, Threshold(threshold=threshold))
    sampler = Sampler(pipeline, batch_size=2)
    images, _, share, _ = sampler(Candidate("dynamic", "", 4, None, 1.0, executor), [0, 1], [5, 6])
    if threshold == 0:
        assert torch.equal(images, pipeline.generate([0, 1], [5, 6]))
        assert share == 1
    else:
        first_block_alone = ((1, 1, 1, 1), *[(1, 1, 0, 0)] * 3)
        assert share == count_macs(pipeline.model).cost(first_block_alone).with_attention.share


def test_plots_are_png_files(real: Tensor) -> None:
    assert plot_schedule(small_schedule()).startswith(PNG)
    assert plot_schedule(small_schedule(), torch.rand(3, 4)).startswith(PNG)
    rows = [measurement(mse=0.0, curve="full"), measurement(), measurement(curve="random")]
    for plot in (plot_frontier, plot_frontier_over_time):
        assert plot(rows).startswith(PNG)
        assert plot(rows[:1]).startswith(PNG)
    assert plot_images([("first", real[:3]), ("second", real[3:6])]).startswith(PNG)
