"""Images in shards, made on a real cluster into a folder and into a real object store, and judged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_inception import write_random_inception
from real_cluster import Cluster, meanwhile, set_options, wait_until
from real_object_store import BUCKET, ObjectServer

from l2c_ray.errors import StorageError
from l2c_ray.evaluation.imagenet.shards import ImageShards, shard_name
from l2c_ray.storage.archives import Archive
from l2c_ray.storage.opening import open_store

CONFIG = """
[model]
name = "digits-dit"

[sampler]
steps = 2

[images]
storage = "generated"
count = 8
shard_size = 3

[cluster]
workers = 2
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "generate.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def images(cluster: Cluster, config: Path) -> Path:
    """A folder with all shards, made by one run."""
    folder = cluster.home / "generated"
    assert generate(cluster, config) == {"address": str(folder), "images": 8, "shards": 3, "made_now": 3}
    return folder


def generate(cluster: Cluster, config: Path, *overrides: str, **variables: str) -> dict[str, Any]:
    """`l2c imagenet generate`; its JSON."""
    done = cluster.l2c("imagenet", "generate", str(config), "--json", *set_options(*overrides), **variables)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_second_run_makes_only_the_shards_that_are_missing(cluster: Cluster, config: Path, images: Path) -> None:
    lost = images / shard_name(1)
    content = lost.read_bytes()
    lost.unlink()
    written = {file.name: file.stat().st_mtime_ns for file in images.iterdir()}
    assert generate(cluster, config)["made_now"] == 1
    assert generate(cluster, config)["made_now"] == 0
    assert lost.read_bytes() == content
    assert written.items() <= {file.name: file.stat().st_mtime_ns for file in images.iterdir()}.items()


def test_images_are_judged_next_to_a_reference_batch(cluster: Cluster, images: Path, tmp_path: Path) -> None:
    weights = write_random_inception(tmp_path / "inception.pth")
    shards = [Archive(images / shard_name(number), "shard").array("arr_0") for number in range(3)]
    np.savez(tmp_path / "reference.npz", arr_0=np.concatenate(shards))
    files = ["--reference", str(tmp_path / "reference.npz"), "--inception", str(weights)]
    done = cluster.l2c("imagenet", "evaluate", str(images), *files, "--json")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert scores["images"] == 8
    assert scores["fid"] == pytest.approx(0, abs=1e-2)
    assert scores["sfid"] == pytest.approx(0, abs=1e-2)
    assert scores["precision"] == scores["recall"] == 1
    assert scores["inception_score"] >= 1


def test_images_in_an_object_store_are_those_in_a_folder(
    cluster: Cluster, config: Path, images: Path, object_server: ObjectServer
) -> None:
    address = f"s3://{BUCKET}/digits/two-steps"
    assert generate(cluster, config, f"images.storage={address}", **object_server.environment())["made_now"] == 3
    store = open_store(address, object_server.environment())
    assert store.names() == {file.name for file in images.iterdir()}
    assert ImageShards(store).images == 8
    for name in store.names():
        assert store.get(name) == (images / name).read_bytes()


@pytest.mark.parametrize(
    ("bucket", "signed_with", "reason"),
    [(BUCKET, "another", "SignatureDoesNotMatch"), ("no-such-bucket", None, "NoSuchBucket")],
)
def test_object_store_that_refuses_is_a_typed_error(
    object_server: ObjectServer, bucket: str, signed_with: str | None, reason: str
) -> None:
    environment = object_server.environment(signed_with) if signed_with else object_server.environment()
    store = open_store(f"s3://{bucket}/digits", environment)
    for use in (store.names, lambda: store.put("a", b"content"), lambda: store.get("a")):
        with pytest.raises(StorageError, match=rf"^s3://{bucket}/digits.*: S3 .*\({reason}"):
            use()


def test_worker_that_is_lost_is_replaced_and_its_shard_made_again(cluster: Cluster, config: Path) -> None:
    folder = cluster.home / "generated-anew"

    def lose_one() -> None:
        wait_until(lambda: (folder / shard_name(0)).exists())
        cluster.processes("::_Worker")[0].kill()

    many = ("images.count=120", "images.shard_size=10", "sampler.steps=20")
    with meanwhile(lose_one):
        assert generate(cluster, config, f"images.storage={folder}", *many)["made_now"] == 12
    assert ImageShards(open_store(str(folder))).images == 120
