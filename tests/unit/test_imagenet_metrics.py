"""Features of a randomly drawn Inception, and the scores of features whose scores are known."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from random_inception import write_random_inception
from torch import Tensor

from l2c_ray.errors import CheckpointError, StorageError
from l2c_ray.evaluation.imagenet import inception
from l2c_ray.evaluation.imagenet.inception import POOLED, SPATIAL, Inception
from l2c_ray.evaluation.imagenet.manifold import precision_recall
from l2c_ray.evaluation.imagenet.metrics import FrechetTally, inception_score
from l2c_ray.evaluation.imagenet.reference import Moments, Reference
from l2c_ray.storage.pickled import read_pickled
from l2c_ray.storage.tensors import write_tensors


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_inception(tmp_path_factory.mktemp("inception") / "inception.pth")


@pytest.fixture(scope="session")
def network(weights: Path) -> Inception:
    return inception.load(weights)


def pictures(count: int, side: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def features(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_network_tells_pictures_apart_and_sees_each_for_itself(network: Inception) -> None:
    images = torch.from_numpy(pictures(2, 598)).permute(0, 3, 1, 2)
    both = network(images)
    assert both.pooled.shape == (2, POOLED)
    assert both.spatial.shape == (2, SPATIAL) == (2, 2023)
    assert network.logits(both.pooled).shape == (2, 1008)
    assert not torch.allclose(both.pooled[0], both.pooled[1], rtol=1e-2)
    # TensorFlow 1 makes a picture half as large by taking every other pixel.
    alone = network(images[1:, :, ::2, ::2])
    torch.testing.assert_close(alone.pooled, both.pooled[1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone.spatial, both.spatial[1:], rtol=1e-4, atol=1e-5)


def test_weights_are_read_from_both_kinds_of_files(weights: Path, network: Inception, tmp_path: Path) -> None:
    tensors = read_pickled(weights)
    # Some copies of the file have the counts of training steps.
    tensors["Conv2d_1a_3x3.bn.num_batches_tracked"] = torch.tensor(7)
    again = inception.load(write_tensors(tmp_path / "inception.safetensors", tensors))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in again.named_parameters())


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        ({"fc.weight": torch.zeros(1000, 2048)}, "fc.weight in "),
        ({"AuxLogits.fc.weight": torch.zeros(1)}, "AuxLogits.fc.weight in "),
        ({"fc.bias": None}, "fc.bias in "),
        ({"fc.bias": torch.ones(1008, dtype=torch.int64)}, "fc.bias in "),
    ],
)
def test_weights_of_another_network_are_refused_naming_the_tensor(
    weights: Path, tmp_path: Path, change: dict[str, Tensor | None], subject: str
) -> None:
    changed = {name: value for name, value in (read_pickled(weights) | change).items() if value is not None}
    path = write_tensors(tmp_path / "inception.safetensors", changed)
    with pytest.raises(CheckpointError) as caught:
        inception.load(path)
    assert caught.value.subject == subject + str(path)


def test_weights_that_are_no_file_of_tensors_are_refused_naming_it(tmp_path: Path) -> None:
    (tmp_path / "inception.pth").write_bytes(b"not weights")
    for name in ("inception.pth", "none.pth"):
        with pytest.raises(CheckpointError, match=name):
            inception.load(tmp_path / name)


def test_frechet_distance_of_a_set_to_itself_is_zero() -> None:
    tally = FrechetTally(6)
    for part in features(100, 6).split(30):
        tally.add(part, real=True)
        tally.add(part, real=False)
    assert tally.distance() == pytest.approx(0, abs=1e-4)


def test_frechet_distance_to_given_moments_is_that_of_the_formula() -> None:
    generated = features(500, 4) @ features(4, 4, seed=1) + 1
    mean, covariance = features(4, 1, seed=2)[:, 0].double(), features(4, 9, seed=3).double()
    covariance = covariance @ covariance.T
    tally = FrechetTally(4)
    tally.add(features(10, 4, seed=4), real=True)
    tally.replace_real(Moments(mean, covariance))
    tally.add(generated, real=False)

    ours, root = np.cov(generated.double().numpy().T), scipy.linalg.sqrtm
    offset = generated.double().mean(dim=0) - mean
    traces = np.trace(ours) + np.trace(covariance.numpy()) - 2 * np.trace(root(ours @ covariance.numpy()).real)
    assert tally.distance() == pytest.approx(float(offset @ offset) + traces, rel=1e-5)


def test_inception_score_counts_the_classes_that_are_surely_there() -> None:
    assert inception_score(torch.ones(40, 8) * torch.arange(8)) == pytest.approx(1)
    assert inception_score(100 * torch.eye(5).repeat(400, 1)) == pytest.approx(5, rel=0.02)
    assert inception_score(features(3, 8)) >= 1


def test_inception_score_is_seeded_and_leaves_other_draws_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert inception_score(features(50, 8)) == inception_score(features(50, 8))
    assert torch.equal(torch.get_rng_state(), state)


def test_precision_and_recall_of_equal_and_of_far_sets() -> None:
    some = features(50, 16)
    assert precision_recall(some, some) == (1, 1)
    assert precision_recall(some + 1000, some) == (0, 0)


def test_precision_falls_by_odd_images_and_recall_by_missing_modes() -> None:
    near, far = features(40, 16), features(40, 16, seed=1) + 1000
    assert precision_recall(torch.cat([near, far]), near) == (0.5, 1)
    assert precision_recall(near, torch.cat([near, far])) == (1, 0.5)


def test_precision_and_recall_do_not_depend_on_where_the_features_lie() -> None:
    real, generated = features(1300, 8) * 0.01, features(1200, 8, seed=1) * 0.012
    expected = precision_recall(generated, real)
    assert 0.5 < expected.precision < 1
    shifted = precision_recall(generated + 100, real + 100)
    assert shifted.precision == pytest.approx(expected.precision, abs=0.01)
    assert shifted.recall == pytest.approx(expected.recall, abs=0.01)


def moments(width: int, suffix: str = "") -> dict[str, np.ndarray]:
    return {f"mu{suffix}": np.ones(width, np.float32), f"sigma{suffix}": np.eye(width)}


def test_reference_may_have_images_moments_or_both(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    images = pictures(5, 6)
    np.savez(path, arr_0=images)
    reference = Reference(path)
    assert (reference.images, reference.pooled, reference.spatial) == (5, None, None)
    batches = list(reference.batches(2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat(batches), torch.from_numpy(images).permute(0, 3, 1, 2))

    np.savez(path, **moments(POOLED), **moments(SPATIAL, "_s"))
    reference = Reference(path)
    assert (reference.images, list(reference.batches(2))) == (0, [])
    assert reference.pooled
    assert reference.spatial
    assert torch.equal(reference.pooled.mean, torch.ones(POOLED, dtype=torch.float64))
    assert torch.equal(reference.spatial.covariance, torch.eye(SPATIAL, dtype=torch.float64))

    np.savez(path, arr_0=images, **moments(POOLED))
    reference = Reference(path)
    assert (reference.images, reference.spatial) == (5, None)
    assert reference.pooled


def test_grey_pictures_are_seen_as_grey(tmp_path: Path) -> None:
    np.savez(tmp_path / "reference.npz", arr_0=pictures(2, 6, channels=1))
    (batch,) = Reference(tmp_path / "reference.npz").batches(4)
    assert batch.shape == (2, 3, 6, 6)
    assert torch.equal(batch[:, 0], batch[:, 2])


@pytest.mark.parametrize(
    ("arrays", "subject"),
    [
        ({"arr_1": np.ones(3)}, ""),
        ({"arr_0": pictures(2, 6).astype(np.float32)}, "arr_0 in "),
        ({"arr_0": pictures(2, 6)[..., 0]}, "arr_0 in "),
        ({"arr_0": pictures(2, 6, channels=4)}, "arr_0 in "),
        (moments(POOLED) | {"sigma": np.eye(3)}, "sigma in "),
        ({"mu": np.ones(POOLED)}, "sigma in "),
        (moments(POOLED) | {"mu": np.ones(POOLED, int)}, "mu in "),
        (moments(POOLED) | {"mu": np.full(POOLED, np.nan)}, "mu in "),
        (moments(POOLED) | moments(POOLED, "_s"), "mu_s in "),
    ],
)
def test_reference_of_another_kind_is_refused_naming_the_array(
    tmp_path: Path, arrays: dict[str, np.ndarray], subject: str
) -> None:
    path = tmp_path / "reference.npz"
    np.savez(path, **arrays)
    with pytest.raises(StorageError) as caught:
        Reference(path)
    assert caught.value.subject == subject + str(path)
