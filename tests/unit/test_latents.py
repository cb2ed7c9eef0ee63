"""Latents as workers draw them: every one once an epoch, the same for the same seed, iteration and rank."""

import gc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from latent_factories import SHAPE, latent_settings
from torch import Tensor
from unit_factories import learn_config, tiny_dit

from l2c_ray.data import latent_shards
from l2c_ray.data.latent_shards import Shard, prepare_store
from l2c_ray.data.latents import LatentImages
from l2c_ray.data.training import open_training_images
from l2c_ray.errors import ConfigError, StorageError
from l2c_ray.learning.l2c.learner import L2CLearner
from l2c_ray.learning.objectives import make_objective
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.storage.folder import Folder
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_store

SIZES = (5, 3, 4, 5, 1, 2)


class CountingStore(Folder):
    """A folder, and how often each object in it was read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.read: Counter[str] = Counter()

    def get(self, name: str, most: int | None = None) -> bytes:
        self.read[name] += 1
        return super().get(name, most)


def fill(folder: Path) -> ObjectStore:
    """Image number i of all has latents of i + 1 and label i mod 3."""
    store = open_store(str(folder))
    prepare_store(store, latent_settings(shards=len(SIZES)))
    first = 0
    for number, size in enumerate(SIZES):
        images = range(first, first + size)
        latents = np.stack([np.full(SHAPE, image + 1, np.float16) for image in images])
        content = latent_shards.encode(latents, [image % 3 for image in images], [str(image) for image in images], [])
        store.put(Shard(number, size).name, content)
        first += size
    return store


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    return fill(tmp_path_factory.mktemp("latents"))


def drawn(images: LatentImages, size: int, iterations: range) -> list[int]:
    """Numbers of the images, whose labels have to be theirs."""
    numbers: list[int] = []
    for iteration in iterations:
        batch = images.batch(size, iteration, torch.Generator())
        assert batch.images.shape == (size, *SHAPE)
        assert (batch.images.dtype, batch.labels.dtype) == (torch.float32, torch.int64)
        own = [int(image.mean().item()) - 1 for image in batch.images]
        assert batch.labels.tolist() == [number % 3 for number in own]
        numbers += own
    return numbers


@given(workers=st.integers(1, 6), shuffle_shards=st.integers(1, 7), size=st.integers(1, 9))
def test_workers_together_see_every_image_once_an_epoch(
    filled: ObjectStore, workers: int, shuffle_shards: int, size: int
) -> None:
    seen: list[int] = []
    for rank in range(workers):
        images = LatentImages(filled, seed=1, rank=rank, workers=workers, shuffle_shards=shuffle_shards)
        its_own = sum(SIZES[rank::workers])
        both = drawn(images, size, range(-(-2 * its_own // size)))
        assert sorted(both[:its_own]) == sorted(both[its_own : 2 * its_own])
        seen += both[:its_own]
    assert sorted(seen) == list(range(sum(SIZES)))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_batch_of_an_iteration_does_not_depend_on_those_before_it(filled: ObjectStore, iterations: list[int]) -> None:
    images = LatentImages(filled, seed=1, rank=1, workers=2, shuffle_shards=2)
    for iteration in iterations:
        alone = LatentImages(filled, seed=1, rank=1, workers=2, shuffle_shards=2)
        here = range(iteration, iteration + 1)
        assert drawn(images, 4, here) == drawn(alone, 4, here)


def test_order_is_another_one_in_each_epoch_and_for_each_seed(filled: ObjectStore) -> None:
    first, other = (LatentImages(filled, seed, rank=0, workers=1, shuffle_shards=3) for seed in (1, 2))
    epochs = drawn(first, sum(SIZES), range(2))
    assert epochs[: sum(SIZES)] != epochs[sum(SIZES) :]
    assert epochs[: sum(SIZES)] != sorted(epochs[: sum(SIZES)])
    assert drawn(other, sum(SIZES), range(1)) != epochs[: sum(SIZES)]


def test_images_of_shards_that_are_shuffled_together_are_mixed(filled: ObjectStore) -> None:
    shard_of = np.repeat(range(len(SIZES)), SIZES)
    apart, together = (LatentImages(filled, seed=1, rank=0, workers=1, shuffle_shards=count) for count in (1, 6))
    changes = [np.count_nonzero(np.diff(shard_of[drawn(each, sum(SIZES), range(1))])) for each in (apart, together)]
    assert changes[0] == len(SIZES) - 1
    assert changes[1] > 2 * changes[0]


def test_every_shard_is_read_once_an_epoch_and_only_by_its_own_worker(filled: ObjectStore) -> None:
    for rank in range(2):
        counting = CountingStore(Path(filled.address))
        images = LatentImages(counting, seed=1, rank=rank, workers=2, shuffle_shards=2)
        drawn(images, 1, range(sum(SIZES[rank::2])))
        own = {Shard(number, size).name: 1 for number, size in enumerate(SIZES) if number % 2 == rank}
        assert {name: times for name, times in counting.read.items() if name != "settings.json"} == own


def test_memory_holds_only_the_shards_that_are_shuffled_together(tmp_path: Path) -> None:
    count, size = 3, 256
    store = open_store(str(tmp_path))
    prepare_store(store, latent_settings(shards=count, size=16))
    for number in range(count):
        latents = np.zeros((size, 4, 16, 16), np.float16)
        store.put(Shard(number, size).name, latent_shards.encode(latents, [0] * size, ["x"] * size, []))
    before = bytes_of_latents()
    images = LatentImages(store, seed=0, rank=0, workers=1, shuffle_shards=1)
    for iteration in range(count):
        images.batch(size, iteration, torch.Generator())
        assert bytes_of_latents() - before <= size * 4 * 16 * 16 * 2


def bytes_of_latents() -> int:
    """In memory, of any kind that latents are kept in."""
    gc.collect()
    return sum(each.nbytes for each in gc.get_objects() if type(each) is Tensor and each.dtype == torch.float16)


def learner(store: ObjectStore, rank: int = 0, **sections: dict[str, object]) -> L2CLearner:
    config = learn_config(data={"latents": store.address, "shuffle_shards": 2}, cluster={"workers": 2}, **sections)
    model = tiny_dit(channels=4)
    images = open_training_images(config, rank)
    learned = make_objective(config).make_learner(model, make_solver("ddim", 6, model), images, rank)
    assert isinstance(learned, L2CLearner)
    return learned


def alone(gradient: Tensor) -> Tensor:
    return gradient


def test_resumed_run_on_latents_is_the_run_that_was_never_cut_off(filled: ObjectStore) -> None:
    whole, first, second = (learner(filled, rank=1) for _ in range(3))
    wanted = [whole.step(alone) for _ in range(6)]
    for _ in range(3):
        first.step(alone)
    second.load_state(first.state())
    assert [second.step(alone) for _ in range(3)] == wanted[3:]
    assert learner(filled, rank=0).step(alone) != wanted[0]


def test_run_keeps_in_its_record_which_latents_it_had(filled: ObjectStore, tmp_path: Path) -> None:
    record = LatentImages(filled, 0, 0, 1, 8).settings()
    assert record["shuffle_shards"] == 8
    assert record == LatentImages(fill(tmp_path / "again"), 1, 1, 2, 8).settings()
    store = fill(tmp_path / "other")
    (tmp_path / "other" / Shard(5, 2).name).rename(tmp_path / "other" / Shard(5, 3).name)
    assert record != LatentImages(store, 0, 0, 1, 8).settings()


def test_latents_that_do_not_fit_are_refused_naming_the_key(filled: ObjectStore) -> None:
    for model, problem in (
        (tiny_dit(), r"has latents of \[4, 4, 4\], and samples of tiny are \[1, 4, 4\]"),
        (tiny_dit(channels=4, classes=2), "has 3 classes, and tiny knows 2"),
    ):
        config = learn_config(data={"latents": filled.address})
        with pytest.raises(ConfigError, match=rf"^data.latents: {problem}"):
            make_objective(config).make_learner(model, make_solver("ddim", 6, model), open_training_images(config))


def test_more_workers_than_shards_and_no_latents_are_refused(filled: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^cluster.workers: 7 workers have no shard each, .* has 6"):
        open_training_images(learn_config(data={"latents": filled.address}, cluster={"workers": 7}))
    with pytest.raises(StorageError, match="has no latents"):
        open_training_images(learn_config(data={"latents": str(tmp_path)}))


@pytest.mark.parametrize("limit", [{"budget": 0.5}, {"max_error": 1e-3}])
def test_objectives_that_need_no_data_refuse_latents(limit: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"data.latents with router.lambda alone"):
        learn_config(data={"latents": "latents"}, router={"lambda": None} | limit)
