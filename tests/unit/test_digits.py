import pytest
import torch
from sklearn.datasets import load_digits

from l2c_ray.data import digits
from l2c_ray.data.images import LabelledImages


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    return digits.load()


def test_all_digits_are_there_with_their_labels(data: LabelledImages) -> None:
    assert len(data) == 1797
    assert data.images.shape == (1797, *digits.IMAGE_SHAPE)
    assert data.labels.shape == (1797,)
    assert data.labels.unique().tolist() == list(range(digits.NUM_CLASSES))
    assert (data.images.dtype, data.labels.dtype) == (torch.float32, torch.int64)


def test_digits_are_those_that_scikit_learn_loads(data: LabelledImages) -> None:
    theirs = load_digits()
    images = torch.as_tensor(theirs.images, dtype=torch.float32)[:, None] / 8 - 1
    assert torch.equal(data.images, images)
    assert torch.equal(data.labels, torch.as_tensor(theirs.target, dtype=torch.long))


def test_pixels_fill_the_range_from_minus_1_to_1(data: LabelledImages) -> None:
    assert data.images.min() == -1
    assert data.images.max() == 1
    levels = (data.images + 1) * 8
    assert torch.equal(levels, levels.round())


def test_loading_again_gives_the_same_order(data: LabelledImages) -> None:
    again = digits.load()
    assert torch.equal(again.images, data.images)
    assert torch.equal(again.labels, data.labels)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_shards_are_disjoint_and_cover_everything(world_size: int) -> None:
    numbered = LabelledImages(torch.arange(20.0).reshape(20, 1, 1, 1), torch.arange(20))
    shards = [numbered.shard(rank, world_size) for rank in range(world_size)]
    assert sorted(number for shard in shards for number in shard.labels.tolist()) == list(range(20))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_shard_keeps_images_with_their_labels(data: LabelledImages) -> None:
    shard = data.shard(1, 3)
    for place in (0, 10, len(shard) - 1):
        assert torch.equal(shard.images[place], data.images[1 + 3 * place])
        assert shard.labels[place] == data.labels[1 + 3 * place]


def test_every_shard_of_a_few_workers_has_all_digits(data: LabelledImages) -> None:
    for rank in range(4):
        assert data.shard(rank, 4).labels.unique().numel() == digits.NUM_CLASSES
