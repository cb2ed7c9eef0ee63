"""Input that `l2c encode` refuses before it connects to a cluster."""

import json
from pathlib import Path

import pytest
from picture_files import write_folder, write_parquet
from tiny_models import save_tiny_autoencoder
from unit_factories import L2C, Refused

from l2c_ray.config.encoding import EncodingConfig
from l2c_ray.data.latent_shards import Shard
from l2c_ray.data.sources.opening import open_source
from l2c_ray.storage.opening import open_store


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Whose only fault is the cluster."""
    write_folder(tmp_path / "images", {"cat": 2, "dog": 3})
    save_tiny_autoencoder(tmp_path / "vae")
    path = tmp_path / "encode.toml"
    path.write_text(f"""
[source]
images = "{tmp_path}/images"
classes = 2
[latents]
storage = "{tmp_path}/latents"
vae = "{tmp_path}/vae"
image_size = 8
shard_size = 2
""")
    return path


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("latents.size=3", "latents.size in "),
        ("latents.storage='gs://bucket'", "latents.storage in "),
        ("source.kind='zip'", "source.kind in "),
        ("source.images='/nowhere'", "/nowhere: cannot be read"),
        ("source.kind='parquet'", "images: has no .parquet file"),
        ("source.classes=3", "images: has 2 subfolders, not 3"),
        ("source.files='**.png'", "source.files in "),
        ("source.files='owl/*'", "source.files: owl/* chooses nothing that is read below "),
        ("source.files='cat/*'", "images/dog: has no image that cat/* chooses"),
        ("latents.vae='/nowhere'", "/nowhere: cannot be read"),
        ("latents.image_size=9", "latents.image_size: 9 is no multiple of 2"),
        ("latents.storage='/proc/latents'", "/proc/latents: cannot be written"),
        ("cluster.workers=0", "cluster.workers in "),
    ],
)
def test_bad_input_is_told_in_one_line(config: Path, refused: Refused, override: str, named: str) -> None:
    assert named in refused("encode", config, "--set", override)


def test_folder_that_contradicts_itself_is_told_in_one_line(config: Path, tmp_path: Path, refused: Refused) -> None:
    images = tmp_path / "images"
    (images / "dog" / "all").symlink_to(images)
    assert f"{images}/dog/all: is the same folder as {images}" in refused("encode", config)
    (images / "dog" / "all").unlink()
    (images / "dog" / "train-1.png").hardlink_to(images / "dog" / "0.png")
    (images / "cat" / "test-1.png").hardlink_to(images / "cat" / "0.png")
    assert "images: has more than one split of a data set, cat/test-1.png and dog/train-1.png" in refused(
        "encode", config
    )
    write_folder(images, {"Cat": 1})
    assert "images: has one class under two labels, Cat and cat" in refused("encode", config)


def test_hostile_table_is_told_in_one_line(config: Path, tmp_path: Path, refused: Refused) -> None:
    path = write_parquet(tmp_path / "images" / "a.parquet", [bytes(80 << 20)], [0])
    line = refused("encode", config, "--set", "source.kind=parquet")
    assert f"{path}: would become 80 MiB of " in line
    path.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    assert f"{path}: cannot be read" in refused("encode", config, "--set", "source.kind=parquet")


def test_what_is_no_image_is_told_in_the_end(config: Path, tmp_path: Path, refused: Refused, l2c: L2C) -> None:
    images = tmp_path / "images"
    for name in (".DS_Store", "README", "cat/._0.png"):
        (images / name).write_bytes(b"junk")
    (images / "dog" / "gone.png").symlink_to("nowhere")
    assert "RAY_ADDRESS: nowhere is no host:port" in refused("encode", config)
    # As if they had been encoded, which takes a cluster.
    for part in open_source(EncodingConfig.read(config)).parts():
        open_store(str(tmp_path / "latents")).put(Shard(part.number, len(part.files)).name, b"latents")
    finished = l2c("encode", config)
    assert finished.code == 0
    assert "passed over what is no image: 3 hidden, 1 dangling link\n" in finished.err
    assert finished.out.startswith("5 latents in 3 shards at ")
    answer = json.loads(l2c("encode", config, "--json").out)
    assert answer["passed_over"] == {"hidden": 3, "dangling link": 1}


def test_autoencoder_of_grey_images_is_refused(config: Path, tmp_path: Path, refused: Refused) -> None:
    grey = save_tiny_autoencoder(tmp_path / "grey", in_channels=1)
    line = refused("encode", config, "--set", f"latents.vae='{grey}'")
    assert "latents.vae: encodes images of 1 channels, not 3" in line


def test_place_of_other_latents_is_refused_and_nothing_there_is_touched(
    config: Path, tmp_path: Path, refused: Refused
) -> None:
    assert "RAY_ADDRESS: nowhere is no host:port" in refused("encode", config)
    store = open_store(str(tmp_path / "latents"))
    store.put("latents-000000-2.parquet", b"content")
    before = {name: store.get(name) for name in store.names()}
    line = refused("encode", config, "--set", "latents.seed=1")
    assert f"seed in {tmp_path}/latents/settings.json: is 0, not 1; take another latents.storage" in line
    (tmp_path / "images" / "cat" / "9.png").write_bytes(b"one more")
    assert "shards in" in refused("encode", config, "--set", "latents.shard_size=1")
    assert "source_sha256 in" in refused("encode", config)
    assert {name: store.get(name) for name in store.names()} == before
