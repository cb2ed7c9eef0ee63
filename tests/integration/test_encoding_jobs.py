"""Latents, encoded on a real cluster from and into folders and a real object store, and learned from."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from picture_files import picture, write_folder, write_parquet
from real_cluster import DIGITS, SMALL, Cluster, set_options, wait_until
from real_object_store import BUCKET, ObjectServer
from tiny_models import save_tiny_autoencoder, tiny_dit

from l2c_ray.config.encoding import EncodingConfig
from l2c_ray.data import latent_shards, preparing
from l2c_ray.data.latent_shards import open_shards
from l2c_ray.data.preparing import Row
from l2c_ray.data.sources.opening import open_source
from l2c_ray.models.vae import LatentEncoder
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_store

CONFIG = """
[source]
images = "images"
classes = 3

[latents]
storage = "latents"
vae = "vae"
image_size = 8
shard_size = 5
batch_size = 4
skip_broken = true
"""


@pytest.fixture(scope="module")
def config(cluster: Cluster) -> Path:
    """Thirteen images of three classes, of which one is broken, in three shards."""
    write_folder(cluster.home / "images", {"cat": 4, "dog": 4, "owl": 4})
    (cluster.home / "images" / "dog" / "4.png").write_bytes(b"no picture")
    save_tiny_autoencoder(cluster.home / "vae")
    path = cluster.home / "encode.toml"
    path.write_text(CONFIG)
    return path


def encode(cluster: Cluster, config: Path, *overrides: str, **variables: str) -> dict[str, Any]:
    """`l2c encode`; its JSON."""
    done = cluster.l2c("encode", str(config), "--json", *set_options(*overrides), **variables)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def read_names(store: ObjectStore) -> list[list[str]]:
    contents = [store.get(name) for name in sorted(store.names()) if name.endswith(".parquet")]
    return [pq.read_table(io.BytesIO(content))["name"].to_pylist() for content in contents]


def test_latents_in_an_object_store_are_of_its_images_and_learned_from(
    cluster: Cluster, config: Path, object_server: ObjectServer
) -> None:
    upload(cluster.home / "images", object_server)
    address = f"s3://{BUCKET}/latents"
    places = (f"latents.storage={address}", f"source.images=s3://{BUCKET}/images")
    there = {"address": address, "images": 12, "shards": 3, "made_now": 3, "skipped": 1, "passed_over": {}}
    assert encode(cluster, config, *places, **object_server.environment()) == there

    store = open_store(address, object_server.environment())
    settings, shards = open_shards(store)
    for shard, rows in zip(shards, expected_rows(cluster.home), strict=True):
        latents = latent_shards.read(store, shard, settings)
        assert latents.labels.tolist() == [row["label"] for row in rows]
        images = preparing.to_images(np.stack([row["pixels"] for row in rows]))
        noise = preparing.noise_of([row["name"] for row in rows], 0, (4, 4, 4))
        expected = LatentEncoder(cluster.home / "vae").encode(images, noise)
        torch.testing.assert_close(latents.images.float(), expected, atol=1e-3, rtol=1e-2)

    learned = learn(cluster, address, **object_server.environment())
    assert learned["versions"][0]["name"].startswith("digits-dit-")
    run = cluster.home / "runs" / learned["run_name"]
    assert len(json.loads((run / "settings.json").read_text())["latents_sha256"]) == 64


def expected_rows(home: Path) -> Iterator[list[Row]]:
    """Content of every shard, read in this process from the folder that was uploaded."""
    config = EncodingConfig.read(home / "encode.toml", [f"source.images='{home}/images'"])
    source = open_source(config)
    for part in source.parts():
        yield [row for row in preparing.rows_of(source, part, config.latents) if not row["problem"]]


def upload(folder: Path, server: ObjectServer) -> None:
    client = server.client()
    for file in folder.rglob("*.png"):
        name = f"{folder.name}/{file.relative_to(folder)}"
        client.put_object(Bucket=BUCKET, Key=name, Body=file.read_bytes())


def test_label_out_of_range_is_told_by_the_worker_that_finds_it(cluster: Cluster, config: Path) -> None:
    write_parquet(cluster.home / "tables" / "a.parquet", [picture(seed) for seed in range(4)], [0, 1, 2, 3])
    options = set_options("source.images='tables'", "source.kind=parquet", "latents.storage='of-tables'")
    done = cluster.l2c("encode", str(config), *options)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: a.parquet#3: has the label 3, which is none of 0..2")


def test_lost_encoder_and_killed_command_are_gone_on_with(cluster: Cluster, config: Path, tmp_path: Path) -> None:
    write_folder(cluster.home / "many", dict.fromkeys("abc", 200))
    folder = cluster.home / "interrupted"
    given = ("source.images='many'", f"latents.storage='{folder}'", "latents.batch_size=1", "latents.image_size=64")
    command = ["l2c", "encode", str(config), *set_options(*given)]

    def shards() -> int:
        return len(list(folder.glob("latents-*")))

    with cluster.process(*command, log=tmp_path / "log") as process:
        wait_until(lambda: shards() > 0)
        cluster.processes("_Encoder")[0].kill()
        before = shards()
        wait_until(lambda: shards() > before + 2 or process.poll() is not None)
    made = shards()
    assert 2 < made < 120
    answer = encode(cluster, config, *given)
    assert (answer["images"], answer["made_now"]) == (600, 120 - made)
    assert sorted(name for shard in read_names(open_store(str(folder))) for name in shard) == sorted(
        f"{file.parent.name}/{file.name}" for file in (cluster.home / "many").rglob("*.png")
    )


def learn(cluster: Cluster, address: str, *overrides: str, **variables: str) -> dict[str, Any]:
    """A few iterations on two workers, on a model of latents of 4x4."""
    checkpoint = cluster.home / "latent-model"
    if not checkpoint.exists():
        tiny_dit(channels=4).save(checkpoint)
    given = (f"data.latents={address}", f"model.checkpoint={checkpoint}", "sampler.steps=6", "cluster.workers=2")
    small = set_options(*SMALL, "training.iterations=6", "evaluation.images=4", *given, *overrides)
    done = cluster.l2c("learn", str(DIGITS), "--json", *small, **variables)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
