"""Images in folders, Parquet files and tars: which there are, which label they have, and what is refused."""

import tarfile
from collections import Counter
from pathlib import Path

import pytest
from picture_files import picture, write_folder, write_parquet, write_tar

from l2c_ray.data.sources.base import Example, ImageFiles, fingerprint
from l2c_ray.data.sources.folder import ClassFolders
from l2c_ray.data.sources.parquet import ParquetImages
from l2c_ray.data.sources.parquet_check import Columns
from l2c_ray.data.sources.webdataset import TarImages
from l2c_ray.errors import StorageError
from l2c_ray.storage.opening import open_tree

COUNTS = {"cat": 4, "dog": 3, "owl": 4}


def folders(path: Path, classes: int = 3, part_size: int = 4, seed: int = 0) -> ClassFolders:
    return ClassFolders(open_tree(str(path)), None, classes, part_size, seed)


def tables(path: Path, part_size: int = 4, image: str = "image") -> ParquetImages:
    return ParquetImages(open_tree(str(path)), None, 3, part_size, Columns(image, "label"))


def tars(path: Path) -> TarImages:
    return TarImages(open_tree(str(path)), None, 3)


def everything(source: ImageFiles) -> list[Example]:
    return [example for part in source.parts() for example in source.read(part)]


def refusal(source: ImageFiles) -> str:
    with pytest.raises(StorageError) as caught:
        everything(source)
    return str(caught.value)


def pair(key: str, seed: int, label: str) -> list[tuple[str, bytes]]:
    return [(f"{key}.jpg", picture(seed, kind="JPEG")), (f"{key}.cls", label.encode())]


def test_folder_gives_every_picture_once_with_the_label_of_its_subfolder(tmp_path: Path) -> None:
    write_folder(tmp_path, COUNTS)
    (tmp_path / "cat" / "more").mkdir()
    (tmp_path / "cat" / "more" / "9.JPEG").write_bytes(picture(9, kind="JPEG"))
    for name in (".hidden.png", "notes.txt"):
        (tmp_path / "cat" / name).write_bytes(b"no picture")
    found = everything(folders(tmp_path))
    assert Counter(example.label for example in found) == {0: 5, 1: 3, 2: 4}
    assert len({example.name for example in found}) == 12
    for example in found:
        assert example.content == (tmp_path / example.name).read_bytes()
        assert sorted(COUNTS)[example.label] == example.name.partition("/")[0]


def test_folder_is_shuffled_by_the_seed_alone(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 20, "b": 20})
    parts = folders(tmp_path, 2, part_size=20).parts()
    assert parts == folders(tmp_path, 2, part_size=20).parts()
    assert all(set(part.labels) == {0, 1} for part in parts)
    other = folders(tmp_path, 2, part_size=20, seed=1).parts()
    assert fingerprint(other) != fingerprint(parts)


def test_subfolders_that_are_numbers_are_the_labels(tmp_path: Path) -> None:
    write_folder(tmp_path, {str(label): 1 for label in range(11)})
    assert all(int(example.name.partition("/")[0]) == example.label for example in everything(folders(tmp_path, 11)))


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ({}, "has no subfolders, of which each class has one"),
        ({"cat": 1, "dog": 1}, "has 2 subfolders, not 3"),
        ({"0": 1, "2": 1}, "has no subfolder for class 1"),
        ({"cat": 1, "dog": 0, "owl": 1}, "/dog: has no image"),
    ],
)
def test_folder_without_a_class_is_refused_naming_it(tmp_path: Path, counts: dict[str, int], problem: str) -> None:
    tmp_path.joinpath("images").mkdir()
    write_folder(tmp_path / "images", counts)
    assert problem in refusal(folders(tmp_path / "images"))


def test_picture_outside_of_a_class_and_missing_folder_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, COUNTS)
    (tmp_path / "stray.png").write_bytes(picture(0))
    assert f"{tmp_path}/stray.png: is in no subfolder of a class" in refusal(folders(tmp_path))
    assert f"{tmp_path}/none: cannot be read" in refusal(folders(tmp_path / "none"))


@pytest.mark.parametrize("part_size", [1, 2, 3, 4, 5, 8, 20])
def test_parquet_gives_every_row_once_whatever_the_parts_and_row_groups(tmp_path: Path, part_size: int) -> None:
    pictures = [picture(seed) for seed in range(11)]
    write_parquet(tmp_path / "a.parquet", pictures[:8], [seed % 3 for seed in range(8)])
    write_parquet(tmp_path / "b.parquet", pictures[8:], [2, 0, 1])
    source = tables(tmp_path, part_size=part_size)
    found = everything(source)
    assert [example.content for example in found] == pictures
    assert [example.label for example in found] == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
    assert found[9].name == "b.parquet#1"
    assert max(len(list(source.read(part))) for part in source.parts()) <= part_size


def test_parquet_of_structs_with_bytes_is_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"bytes": picture(0), "path": "x.png"}], [1])
    assert everything(tables(tmp_path)) == [Example("a.parquet#0", picture(0), 1)]


@pytest.mark.parametrize(
    ("pictures", "labels", "problem"),
    [
        ([b"x"], [3], "a.parquet#0: has the label 3, which is none of 0..2"),
        ([b"x", b"y"], [0, None], "a.parquet#1: has the label None"),
        (["text"], [0], "a.parquet: image is string, not bytes"),
        ([b"x"], ["cat"], "a.parquet: label is string, not integers"),
    ],
)
def test_parquet_that_does_not_fit_is_refused_naming_where(
    tmp_path: Path, pictures: list[object], labels: list[object], problem: str
) -> None:
    write_parquet(tmp_path / "a.parquet", pictures, labels)
    assert problem in refusal(tables(tmp_path))


def test_parquet_without_the_column_or_whole_content_is_refused_naming_it(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [picture(0)], [0])
    assert "a.parquet: has no column picture; name one of image, label" in refusal(tables(tmp_path, image="picture"))
    path.write_bytes(path.read_bytes()[:-20])
    assert f"{path}: cannot be read" in refusal(tables(tmp_path))
    path.unlink()
    assert "has no .parquet file" in refusal(tables(tmp_path))


def test_tar_gives_its_pairs_in_order(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [*pair("a/1", 1, "2"), ("a/1.json", b"{}")])
    write_tar(tmp_path / "b.tar", [*pair("7", 3, "1\n"), *pair("8", 4, "0")])
    assert [(example.name, example.label) for example in everything(tars(tmp_path))] == [
        ("a.tar#a/1", 2),
        ("b.tar#7", 1),
        ("b.tar#8", 0),
    ]
    assert everything(tars(tmp_path))[1].content == picture(3, kind="JPEG")
    assert len(tars(tmp_path).parts()) == 2


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        (pair("1", 0, "3"), "a.tar#1: has the label 3"),
        (pair("1", 0, "cat"), "a.tar#1: has the label 'cat'"),
        (pair("1", 0, "0")[:1], "a.tar#1: has jpg, not one picture and cls"),
        (pair("1", 0, "0")[1:], "a.tar#1: has cls, not one picture and cls"),
    ],
)
def test_tar_without_a_pair_or_its_label_is_refused_naming_it(
    tmp_path: Path, members: list[tuple[str, bytes]], problem: str
) -> None:
    write_tar(tmp_path / "a.tar", members)
    assert problem in refusal(tars(tmp_path))


def test_half_a_tar_and_none_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [*pair("1", 0, "0"), *pair("2", 0, "0")])
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))
    end += -end % tarfile.BLOCKSIZE
    # Inside a picture, inside a label's header, after a whole pair, and with nothing but the end missing.
    pairs_end = whole.index(b"2.jpg") // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
    for cut in (700, pairs_end - tarfile.BLOCKSIZE - 100, pairs_end, pairs_end + 100, end):
        path.write_bytes(whole[:cut])
        assert f"{path}: cannot be read" in refusal(tars(tmp_path))
    path.unlink()
    assert "has no .tar file" in refusal(tars(tmp_path))


def test_larger_image_of_the_same_name_is_another_source(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", pair("1", 0, "0"))
    before = fingerprint(tars(tmp_path).parts())
    write_tar(tmp_path / "a.tar", [*pair("1", 0, "0"), ("1.txt", b"x" * 20_000)])
    assert fingerprint(tars(tmp_path).parts()) != before


def test_more_images_are_another_source(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [b"x"] * 5, [0] * 5)
    before = fingerprint(tables(tmp_path).parts())
    write_parquet(tmp_path / "b.parquet", [b"x"], [0])
    assert fingerprint(tables(tmp_path).parts()) != before
