"""Tars that somebody damaged or built to do harm end in one typed error, and take no more than they weigh."""

import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from mutations import fuzzed, mutated
from picture_files import picture, write_tar

from l2c_ray.data.sources.base import MOST_IMAGE_BYTES, Example
from l2c_ray.data.sources.webdataset import TarImages
from l2c_ray.errors import L2CError, StorageError
from l2c_ray.storage.opening import open_tree

GIB = 1 << 30
FEW_BYTES = 8 << 20


def examples(folder: Path) -> list[Example]:
    source = TarImages(open_tree(str(folder)), None, 3)
    return [example for part in source.parts() for example in source.read(part)]


def refusal(folder: Path) -> str:
    """The error, for which only little memory may have been taken."""
    tracemalloc.start()
    try:
        with pytest.raises(StorageError) as caught:
            examples(folder)
        assert tracemalloc.get_traced_memory()[1] < FEW_BYTES
    finally:
        tracemalloc.stop()
    return str(caught.value)


def header(name: str, **fields: object) -> bytes:
    """Header of a member with these fields."""
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def resealed(block: bytes) -> bytes:
    """The header with the checksum that belongs to it."""
    blank = block[:148] + b" " * 8 + block[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def sparse(name: str, size: int) -> bytes:
    """A GNU sparse member of one block of data, at the end of a hole."""
    block = bytearray(header(name, size=512, type=tarfile.GNUTYPE_SPARSE))
    block[386:410] = b"%011o\0%011o\0" % (0, 512)
    block[482] = 0
    block[483:495] = b"%011o\0" % size
    return resealed(bytes(block)) + bytes(512)


def member(name: str, content: bytes) -> bytes:
    return header(name, size=len(content)) + content + bytes(-len(content) % 512)


def fields(kind: bytes, records: bytes) -> bytes:
    """A pax header with these records in it."""
    return header("fields", size=len(records), type=kind) + records + bytes(-len(records) % 512)


def record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n".encode()
    length = next(n for n in range(len(rest), len(rest) + 9) if n == len(str(n)) + len(rest))
    return str(length).encode() + rest


END = bytes(10240)
PAIR = member("1.png", picture(0)) + member("1.cls", b"0")

HOSTILE: dict[str, bytes] = {
    "sparse picture of 5 GiB": sparse("1.png", 5 * GIB) + member("1.cls", b"0"),
    "sparse member that is not read": PAIR + sparse("README", 5 * GIB),
    "extended sparse header without an end": resealed(
        sparse("1.png", GIB)[:482] + b"\1" + sparse("1.png", GIB)[483:512]
    ),
    "pax sparse picture": (
        fields(tarfile.XHDTYPE, record("GNU.sparse.size", str(5 * GIB)) + record("GNU.sparse.map", f"0,{5 * GIB}"))
        + PAIR
    ),
    "pax sparse map of words": fields(tarfile.XHDTYPE, record("GNU.sparse.map", "a,b")) + PAIR,
    "pax sparse map of thousands of digits": (fields(tarfile.XHDTYPE, record("GNU.sparse.map", "9" * 5000)) + PAIR),
    "pax sparse 1.0 without a map": (
        fields(tarfile.XHDTYPE, record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0")) + PAIR
    ),
    "pax size of thousands of digits": fields(tarfile.XHDTYPE, record("GNU.sparse.realsize", "9" * 5000)),
    "pax length of thousands of digits": fields(tarfile.XHDTYPE, b"9" * 5000 + b" path=a\n") + PAIR,
    "pax size below zero": fields(tarfile.XHDTYPE, record("size", "-1000")) + PAIR,
    "pax header of a megabyte": fields(tarfile.XHDTYPE, record("path", "a" * (1 << 20))) + PAIR,
    "pax headers after each other": fields(tarfile.XHDTYPE, record("path", "a")) * 3000 + PAIR,
    "name of a megabyte": header("long", size=1 << 20, type=tarfile.GNUTYPE_LONGNAME) + bytes(1 << 20) + PAIR,
    "many fields for all members": (
        fields(tarfile.XGLTYPE, b"".join(record(f"k{number}", "v") for number in range(900))) + PAIR
    ),
    "member that is not read and never ends": PAIR + header("README", size=1 << 80),
    "picture larger than any": header("1.png", size=MOST_IMAGE_BYTES + 1) + END,
    "size below zero": header("1.png", size=-512) + PAIR,
    "label of thousands of digits": member("1.png", picture(0)) + member("1.cls", b"9" * 5000),
    "label of 32 digits": member("1.png", picture(0)) + member("1.cls", b"9" * 32),
    "doubled member": PAIR[: -2 * 512] + member("1.png", picture(1)) + member("1.cls", b"1"),
    "doubled image": PAIR + member("2.png", picture(1)) + member("2.cls", b"1") + PAIR,
    "link for a picture": header("1.png", type=tarfile.SYMTYPE, linkname="/etc/passwd") + member("1.cls", b"0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tar_is_refused_naming_it_for_little_memory(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.tar").write_bytes(HOSTILE[name] + END)
    line = refusal(tmp_path)
    assert "a.tar" in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("sparse picture of 5 GiB", "a.tar: cannot be read (1.png is a sparse file)"),
        ("doubled member", "a.tar#1: has png twice"),
        ("doubled image", "a.tar#1: is there twice"),
        ("label of thousands of digits", "a.tar#1.cls: has 5000 bytes, and a label has 32 at most"),
        ("label of 32 digits", f"a.tar#1: has the label {'9' * 32}, which is none of 0..2"),
        ("member that is not read and never ends", "a.tar: cannot be read (README does not end in it)"),
        ("link for a picture", "a.tar#1: has cls, not one picture and cls"),
    ],
)
def test_hostile_tar_is_told_by_what_is_wrong_with_it(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "a.tar").write_bytes(HOSTILE[name] + END)
    assert problem in refusal(tmp_path)


def test_odd_but_whole_tars_are_read(tmp_path: Path) -> None:
    """Long names, names in another encoding, fields of other tools, folders and an empty file."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "from git"}) as tar:
        for name, content in (("a" * 300 + "/1.png", picture(0)), ("a" * 300 + "/1.cls", b" 2\n"), ("empty.txt", b"")):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1.5
            tar.addfile(info, io.BytesIO(content))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name, content in (("caf\xe9.png", picture(1)), ("caf\xe9.cls", b"1")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert examples(tmp_path) == [
        Example(f"a.tar#{'a' * 300}/1", picture(0), 2),
        Example(r"b.tar#caf\xe9", picture(1), 1),
    ]


def test_memory_of_a_tar_does_not_grow_with_its_members(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [(f"{number}.txt", b"") for number in range(5_000)])
    source = TarImages(open_tree(str(tmp_path)), None, 3)
    (part,) = source.parts()
    tracemalloc.start()
    assert list(source.read(part)) == []
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert source.passed_over == {".txt": 5_000}


@fuzzed
@given(
    mutated(
        fields(tarfile.XGLTYPE, record("comment", "a"))
        + fields(tarfile.XHDTYPE, record("path", "2.png"))
        + PAIR
        + sparse("3", 9)
        + END
    )
)
def test_damaged_tar_is_read_or_refused(fuzzing: Path, content: bytes) -> None:
    (fuzzing / "a.tar").write_bytes(content)
    tracemalloc.start()
    try:
        for example in examples(fuzzing):
            assert 0 <= example.label < 3
    except L2CError:
        pass
    assert tracemalloc.get_traced_memory()[1] < FEW_BYTES
    tracemalloc.stop()
