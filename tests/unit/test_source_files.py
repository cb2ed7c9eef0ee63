"""Which files of a data set are read, which are passed over and counted, and which sets contradict themselves."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
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
    "README.png": "hidden",
    "Thumbs.db": "hidden",
    "desktop.ini": "hidden",
    "@eaDir/4.png": "hidden",
    "$RECYCLE.BIN/5.png": "hidden",
    "System Volume Information/6.png": "hidden",
    "lost+found/7.png": "hidden",
    "~$8.png": "hidden",
    "LICENSE": "of no usual suffix",
    "notes.TXT": ".txt",
}
"""Files that systems and people leave beside data, with the kind as which they are counted."""


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
    hidden = Counter(JUNK.values())["hidden"]
    assert source.passed_over.total() == len(JUNK) + 5
    assert source.passed_over["hidden"] == hidden
    read = {"folder": ("png", "bmp"), "parquet": ("", "parquet"), "webdataset": ("tar", "tar")}[kind]
    assert source.passed_over["dangling link"] == bool(read[0])
    assert source.passed_over["device or pipe"] == 1
    # Counted anew, not once more.
    source.parts()
    assert source.passed_over["hidden"] == hidden


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


def test_tar_of_a_folder_from_inside_it_is_read_with_plain_names(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [(f"./{name}", content) for name, content in pairs(["0", "1"])])
    source = opened(tmp_path, "webdataset")
    assert [(example.name, example.label) for example in everything(source)] == [("a.tar#0", 0), ("a.tar#1", 1)]
    assert not source.passed_over
    write_tar(tmp_path / "a.tar", [(f".//x/./{name}", content) for name, content in pairs(["0"])])
    assert [example.name for example in everything(opened(tmp_path, "webdataset"))] == ["a.tar#x/0"]


def test_one_name_in_two_spellings_and_one_that_leads_out_are_refused(tmp_path: Path) -> None:
    members = pairs(["0", "1"])
    write_tar(tmp_path / "a.tar", [*members, *((f"./{name}", content) for name, content in members[:2])])
    assert "a.tar#0: is there twice" in refusal(opened(tmp_path, "webdataset"))
    write_tar(tmp_path / "a.tar", [*members, ("../README", b"junk"), ("../1.png", b"x")])
    assert "a.tar#../1.png: has a name that leads out of its folder" in refusal(opened(tmp_path, "webdataset"))


def test_class_whose_name_looks_special_is_one(tmp_path: Path) -> None:
    write_folder(tmp_path, {"__background__": 1, "_other": 1})
    assert [label for part in opened(tmp_path, "folder").parts() for label in sorted(part.labels)] == [0, 1]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_label_after_a_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    write_tar(tmp_path / "a.tar", [("0.png", picture(0)), ("0.cls", "1\r\n".encode(encoding))])
    assert everything(opened(tmp_path, "webdataset"))[0].label == 1


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


@pytest.mark.parametrize(
    "names",
    [
        ("train-0", "validation-0"),
        ("a/test.1", "a/val.1"),
        ("dev/0", "training/0"),
        ("train_val/train-0", "train_val/val-0"),
        ("imagenet-train-val/train/0", "imagenet-train-val/val/0"),
        ("train-test-split/train", "train-test-split/test"),
        ("train-test-split/train", "test"),
        ("my-test-run/train-0", "my-test-run/val-0"),
        ("train/test-run-0", "val/test-run-1"),
        ("trainset/0", "testset/0"),
        ("TrainData", "TestData"),
        ("trainA/0", "testA/0"),
        ("TRAIN/0", "VAL/0"),
        ("train-0", "eval-0"),
        ("train-0", "validate-0"),
        ("train-0", "holdout-0"),
        ("train-0", "held_out-0"),
        ("trainval", "test"),
    ],
)
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
    for name in ("trained-0", "contest-1", "train-2", "devices-3", "training-4", "trainA", "trainB", "upheld/out"):
        write_parquet(tmp_path / f"{name}.parquet", [picture(0)], [0])
    assert len(everything(opened(tmp_path, "parquet"))) == 8


@pytest.mark.parametrize("names", [("a-train-0", "b-0"), ("train-0", "train-1"), ("train_val-0", "train_val-1")])
def test_word_in_the_name_of_the_common_folder_says_nothing(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        write_parquet(tmp_path / "test-run" / f"{name}.parquet", [picture(0)], [0])
    assert len(everything(opened(tmp_path, "parquet"))) == 2


def test_classes_that_are_called_like_splits_beside_others_are_classes(tmp_path: Path) -> None:
    write_folder(tmp_path, {"bus": 1, "test_tube": 1, "train": 1})
    (tmp_path / "train" / "test-1.png").write_bytes(picture(3))
    assert len(everything(opened(tmp_path, "folder", classes=3))) == 4


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


def test_folder_repeated_by_a_link_is_refused_and_a_link_alone_is_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", {"cat": 2})
    write_folder(tmp_path / "set", {"dog": 1})
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    assert len(everything(opened(tmp_path / "set", "folder"))) == 3
    (tmp_path / "set" / "dog" / "again").symlink_to(tmp_path / "set")
    assert f"{tmp_path}/set/dog/again: is the same folder as {tmp_path}/set" in refusal(
        opened(tmp_path / "set", "folder")
    )


def test_links_to_one_folder_are_refused_only_if_both_are_chosen(tmp_path: Path) -> None:
    write_parquet(tmp_path / "v2" / "a.parquet", [picture(0)], [0])
    for link in ("current", ".hidden"):
        (tmp_path / link).symlink_to("v2")
    assert len(everything(opened(tmp_path, "parquet", "current/*"))) == 1
    assert len(everything(opened(tmp_path, "parquet", "v2/**"))) == 1
    for pattern in (None, "**/*.parquet", "*/a.parquet"):
        assert "is the same folder as" in refusal(opened(tmp_path, "parquet", pattern))
    (tmp_path / "current").unlink()
    assert len(everything(opened(tmp_path, "parquet"))) == 1


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Permissions are looked at meanwhile, as they are not for root."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_folder_that_nobody_may_read_is_refused_if_files_may_be_in_it() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        write_parquet(folder / "data" / "a.parquet", [picture(0)], [0])
        (folder / "lost+found").mkdir(0)
        source = opened(folder, "parquet")
        with ordinary_user():
            assert len(everything(source)) == 1
        assert source.passed_over == {"hidden": 1}
        (folder / "closed").mkdir(0)
        with ordinary_user():
            assert len(everything(opened(folder, "parquet", "data/*"))) == 1
            for pattern in (None, "**/*.parquet", "c*/*"):
                assert f"{folder}/closed: cannot be read" in refusal(opened(folder, "parquet", pattern))


def with_classes(path: Path, names: list[str], label: int = 0) -> None:
    """A table as the library `datasets` writes one."""
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    table = pa.table({"image": [picture(0)], "label": [label]})
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


def test_labels_that_contradict_the_names_beside_them_are_refused(tmp_path: Path) -> None:
    with_classes(tmp_path / "a.parquet", ["cat", "dog"], label=3)
    line = refusal(opened(tmp_path, "parquet", classes=10))
    assert f"{tmp_path}/a.parquet#0: has the label 3, and its file has names for 0..1 alone" in line
    with_classes(tmp_path / "a.parquet", ["cat", "dog", "cat"])
    line = refusal(opened(tmp_path, "parquet", classes=10))
    assert f"{tmp_path}/a.parquet: means cat by the labels 0 and 2" in line


def test_tables_whose_labels_have_other_types_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [picture(0)], [0])
    write_parquet(tmp_path / "b.parquet", [picture(1)], ["dog"])
    assert f"{tmp_path}/b.parquet: label is string, not integers" in refusal(opened(tmp_path, "parquet"))


def test_image_with_a_name_that_is_not_utf8_is_refused_showing_it(tmp_path: Path) -> None:
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
