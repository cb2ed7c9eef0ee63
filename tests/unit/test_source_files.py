"""Which files of a data set are read, which are passed over and counted, and which sets contradict themselves."""

import json
import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from picture_files import picture, write_folder, write_parquet, write_tar

from l2c_ray.config.encoding import EncodingConfig
from l2c_ray.data.sources.base import Example, ImageFiles, told
from l2c_ray.data.sources.opening import open_source
from l2c_ray.errors import ConfigError, L2CError, StorageError

JUNK = {
    ".DS_Store": "hidden",
    "._1.png": "hidden",
    ".hidden/2.png": "hidden",
    "__MACOSX/3.png": "hidden",
    "__info__.json": "hidden",
    "README": "of no usual suffix",
    "Thumbs.db": ".db",
    "notes.TXT": ".txt",
}
"""What systems and people leave beside data, and as what it is counted."""


def opened(folder: Path, kind: str, files: str | None = None, classes: int = 2) -> ImageFiles:
    source = {"images": str(folder), "kind": kind, "classes": classes, "files": files}
    latents = {"storage": str(folder / "latents"), "vae": "vae", "shard_size": 4}
    return open_source(EncodingConfig.parse({"source": source, "latents": latents}, source="test"))


def everything(source: ImageFiles) -> list[Example]:
    return [example for part in source.parts() for example in source.read(part)]


def refusal(source: ImageFiles, kind: type[L2CError] = StorageError) -> str:
    with pytest.raises(kind) as caught:
        everything(source)
    return str(caught.value)


def pairs(labels: list[str]) -> list[tuple[str, bytes]]:
    return [
        (f"{key}.{suffix}", content)
        for key, label in enumerate(labels)
        for suffix, content in (("png", picture(key)), ("cls", label.encode()))
    ]


def write(folder: Path, kind: str) -> Path:
    """Two images of the classes 0 and 1, in `folder` itself."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        return write_folder(folder, {"cat": 1, "dog": 1})
    if kind == "parquet":
        write_parquet(folder / "a.parquet", [picture(0), picture(1)], [0, 1])
    else:
        write_tar(folder / "a.tar", pairs(["0", "1"]))
    return folder


KINDS = pytest.mark.parametrize("kind", ["folder", "parquet", "webdataset"])


@KINDS
def test_junk_beside_the_images_is_passed_over_and_counted(tmp_path: Path, kind: str) -> None:
    folder = write(tmp_path / "set", kind)
    before = everything(opened(folder, kind))
    for name in JUNK:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"junk")
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "gone.tar").symlink_to("gone.tar")
    os.mkfifo(folder / "pipe.parquet")
    os.mkfifo(folder / "pipe.bmp")
    (folder / "endless.tar").symlink_to("/dev/zero")
    source = opened(folder, kind)
    assert everything(source) == before
    assert source.passed_over.total() == len(JUNK) + 5
    assert source.passed_over["hidden"] == 5
    read = {"folder": ("png", "bmp"), "parquet": ("", "parquet"), "webdataset": ("tar", "tar")}[kind]
    assert source.passed_over["dangling link"] == bool(read[0])
    assert source.passed_over["device or pipe"] == 1
    # Counted anew, not once more.
    source.parts()
    assert source.passed_over["hidden"] == 5


def test_junk_in_a_tar_is_passed_over_and_counted_by_the_same_rule(tmp_path: Path) -> None:
    members = pairs(["0", "1"])
    write_tar(tmp_path / "a.tar", members)
    expected = everything(opened(tmp_path, "webdataset"))
    # Between a picture and its label too, where macOS puts it.
    junk = [(name, b"junk") for name in JUNK]
    write_tar(tmp_path / "a.tar", [*junk[:3], members[0], ("._0.cls", b"junk"), *members[1:], *junk[3:]])
    source = opened(tmp_path, "webdataset")
    assert everything(source) == expected
    assert source.passed_over == Counter(JUNK.values()) + Counter({"hidden": 1})


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_files_in_subfolders_are_found_and_a_glob_chooses_of_them(tmp_path: Path, kind: str) -> None:
    for name in ("data/train-0", "data/deep/train-1", "train-2"):
        write(tmp_path / name, kind)
    suffix = {"parquet": "parquet", "webdataset": "tar"}[kind]
    for name in ("data/train-0", "data/deep/train-1", "train-2"):
        (tmp_path / name / f"a.{suffix}").rename(tmp_path / f"{name}.{suffix}")

    def files(pattern: str | None) -> list[str]:
        return [part.files[0].removesuffix(f".{suffix}") for part in opened(tmp_path, kind, pattern).parts()]

    assert files(None) == ["data/deep/train-1", "data/train-0", "train-2"]
    assert files(f"train-*.{suffix}") == ["train-2"]
    assert files("data/*") == ["data/train-0"]
    assert files("**/train-[01].*") == ["data/deep/train-1", "data/train-0"]
    assert f"source.files: other-* chooses nothing that is read below {tmp_path}" in refusal(
        opened(tmp_path, kind, "other-*"), ConfigError
    )


@pytest.mark.parametrize("pattern", ["**.tar", ""])
def test_glob_that_is_none_is_refused_by_its_key(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"^source.files in test: "):
        opened(tmp_path, "parquet", pattern)


@pytest.mark.parametrize("names", [("train-0", "validation-0"), ("a/test.1", "a/val.1"), ("dev/0", "training/0")])
def test_splits_are_never_mixed_unless_they_are_chosen(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        write_parquet(tmp_path / f"{name}.parquet", [picture(0)], [0])
    line = refusal(opened(tmp_path, "parquet"))
    assert line.startswith(f"{tmp_path}: has more than one split of a data set, ")
    assert all(f"{name}.parquet" in line for name in names)
    assert "choose with source.files" in line
    assert len(everything(opened(tmp_path, "parquet", "**"))) == 2
    assert len(everything(opened(tmp_path, "parquet", f"{names[0]}*"))) == 1


def test_names_that_only_contain_such_a_word_are_no_splits(tmp_path: Path) -> None:
    for name in ("trained-0", "contest-1", "train-2", "devices-3", "training-4"):
        write_parquet(tmp_path / f"{name}.parquet", [picture(0)], [0])
    assert len(everything(opened(tmp_path, "parquet"))) == 5


def test_folders_of_splits_are_not_taken_for_classes(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 1, "val": 1})
    assert "train and val; set source.images to one of them" in refusal(opened(tmp_path, "folder"))
    assert len(everything(opened(tmp_path, "folder", "**"))) == 2


@pytest.mark.parametrize(
    ("folders", "problem"),
    [
        (("1", "01"), "has one class under two labels, 01 and 1"),
        (("Cat", "cat"), "has one class under two labels, Cat and cat"),
        (("caf\u00e9", "cafe\u0301"), "has one class under two labels"),
        (("10", "cat"), "has 10 and cat: labels are either numbers or the order of names"),
    ],
)
def test_class_folders_that_contradict_are_refused(tmp_path: Path, folders: tuple[str, str], problem: str) -> None:
    write_folder(tmp_path, dict.fromkeys(folders, 1))
    assert f"{tmp_path}: {problem}" in refusal(opened(tmp_path, "folder"))


def test_folder_that_is_there_twice_by_a_link_is_refused_and_a_link_alone_is_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", {"cat": 2})
    write_folder(tmp_path / "set", {"dog": 1})
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    assert len(everything(opened(tmp_path / "set", "folder"))) == 3
    (tmp_path / "set" / "dog" / "again").symlink_to(tmp_path / "set")
    assert f"{tmp_path}/set/dog/again: is the same folder as {tmp_path}/set" in refusal(
        opened(tmp_path / "set", "folder")
    )


def with_classes(path: Path, names: list[str]) -> None:
    """A table as the library `datasets` writes one."""
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    table = pa.table({"image": [picture(0)], "label": [0]})
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_tables_whose_labels_mean_other_classes_are_refused(tmp_path: Path) -> None:
    with_classes(tmp_path / "a.parquet", ["cat", "dog"])
    write_parquet(tmp_path / "b.parquet", [picture(1)], [1])
    with_classes(tmp_path / "c.parquet", ["cat", "dog"])
    assert len(everything(opened(tmp_path, "parquet"))) == 3
    with_classes(tmp_path / "d.parquet", ["cat", "owl"])
    line = refusal(opened(tmp_path, "parquet"))
    assert f"{tmp_path}/d.parquet: means owl by the label 1, and a.parquet means dog" in line


def test_tables_whose_labels_have_other_types_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [picture(0)], [0])
    write_parquet(tmp_path / "b.parquet", [picture(1)], ["dog"])
    assert f"{tmp_path}/b.parquet: label is string, not integers" in refusal(opened(tmp_path, "parquet"))


def test_image_with_a_name_that_nobody_can_write_down_is_refused_showing_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "folder")
    Path(os.fsdecode(os.fsencode(folder / "cat") + b"/\xff.png")).write_bytes(picture(0))
    assert r"/cat/\udcff.png: has a name that is not UTF-8" in refusal(opened(folder, "folder"))


@pytest.mark.parametrize(("kind", "wanted"), [("parquet", ".parquet file with a row"), ("webdataset", ".tar file")])
def test_source_without_an_image_says_what_is_there_instead(tmp_path: Path, kind: str, wanted: str) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"")
    (tmp_path / "b.json").write_bytes(b"")
    assert f"{tmp_path}: has no {wanted}, but 1 .gz, 1 .json; check" in refusal(opened(tmp_path, kind))


def test_many_kinds_that_were_passed_over_are_told_in_one_line() -> None:
    assert told({f".{number}": number for number in range(1, 30)}, most=2) == "29 .29, 28 .28, 378 others"
    assert told({}) == ""
