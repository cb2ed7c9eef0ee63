import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2c_ray.errors import StorageError
from l2c_ray.storage.archives import Archive


def saved(path: Path, *, compressed: bool = False, **arrays: np.ndarray) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def refused(path: Path, member: str = "a") -> StorageError:
    with pytest.raises(StorageError) as caught:
        list(Archive(path, "given.npz").rows(member, 2))
    return caught.value


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("at_a_time", [1, 3, 7, 100])
def test_rows_come_in_pieces_that_make_the_array(tmp_path: Path, compressed: bool, at_a_time: int) -> None:
    array = np.random.default_rng(0).integers(0, 256, (7, 5, 2), dtype=np.uint8)
    path = saved(tmp_path / "a.npz", compressed=compressed, other=np.zeros(3), a=array)
    archive = Archive(path, "given.npz")
    pieces = list(archive.rows("a", at_a_time))
    assert max(map(len, pieces)) == min(at_a_time, 7)
    np.testing.assert_array_equal(np.concatenate(pieces), array)
    np.testing.assert_array_equal(Archive(path.read_bytes(), "given.npz").array("a"), array)
    assert archive.names == {"a", "other"}
    assert archive.header("a") == ((7, 5, 2), np.uint8)


def test_pickled_objects_are_refused_and_nothing_of_them_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Malicious:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    error = refused(saved(tmp_path / "a.npz", a=np.array([Malicious(), Malicious()], dtype=object)))
    assert error.subject == "a in given.npz"
    assert not marker.exists()


@pytest.mark.parametrize(
    "array", [np.asfortranarray(np.ones((3, 2))), np.array(1.0), np.zeros((0, 2)), np.zeros((2, 0))]
)
def test_what_is_no_rows_is_refused_naming_the_member(tmp_path: Path, array: np.ndarray) -> None:
    assert refused(saved(tmp_path / "a.npz", a=array)).subject == "a in given.npz"


def test_missing_member_is_refused_with_those_there_are(tmp_path: Path) -> None:
    assert "it has b" in str(refused(saved(tmp_path / "a.npz", b=np.ones(2))))


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY" + bytes(100)])
def test_what_is_no_archive_is_refused_naming_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    assert refused(tmp_path / "a.npz").subject == "given.npz"
    assert refused(tmp_path / "none.npz").subject == str(tmp_path / "none.npz")
    assert refused(tmp_path).subject == str(tmp_path)


def test_member_that_ends_early_or_is_damaged_is_refused_naming_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", a=np.arange(1000.0))
    damaged = bytearray(path.read_bytes())
    damaged[4000] ^= 1
    (tmp_path / "damaged.npz").write_bytes(damaged)
    assert refused(tmp_path / "damaged.npz").subject == "a in given.npz"

    whole = io.BytesIO()
    np.save(whole, np.arange(1000.0))
    for kept in (3, 20, 4000):
        with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
            archive.writestr("a.npy", whole.getvalue()[:kept])
        assert refused(tmp_path / "short.npz").subject == "a in given.npz"


def test_header_that_claims_more_than_there_is_takes_no_memory_for_it(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**20, 2**20)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue() + bytes(100))
    assert "ends before" in str(refused(tmp_path / "a.npz"))


def written(path: Path, header: bytes, values: bytes = bytes(100)) -> Path:
    """An archive of one array whose header is of these bytes."""
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", start + header + values)
    return path


def of_shape(shape: object, descr: object = "|u1") -> bytes:
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}}}\n".encode()


@pytest.mark.parametrize(
    "header",
    [
        of_shape((-4, 8, 8, 3)),
        of_shape((4, -8, -8, 3)),
        of_shape((2**62, 2**62, 4)),
        of_shape((10**300,)),
        of_shape((4,), "|V2147483647"),
        of_shape((4,), "(1000,1000)f8"),
        of_shape((4,), [("a", "f8"), ("b", "f8")]),
        of_shape((4,), "<M8[s]"),
        of_shape((4,), "<c16"),
        b"[" * 5000,
        b"(" * 9000 + b"\n",
        b"{" * 60000,
        b"-" * 9000,
        b"\xff" * 40,
        b"",
    ],
)
def test_header_that_is_none_is_refused_naming_the_member(tmp_path: Path, header: bytes) -> None:
    error = refused(written(tmp_path / "a.npz", header))
    assert error.subject == "a in given.npz"
    assert "\n" not in str(error)


def test_member_that_is_there_twice_or_encrypted_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", a=np.ones(3))
    whole = path.read_bytes()
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.npy", b"")
    assert "a.npy is there more than once" in str(refused(path))
    encrypted = bytearray(whole)
    encrypted[whole.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(encrypted)
    assert "a.npy is encrypted" in str(refused(path))


@pytest.mark.parametrize(("place", "value"), [(20, 0), (24, 2**31), (42, 2**31), (10, 99)])
def test_directory_that_lies_is_refused(tmp_path: Path, place: int, value: int) -> None:
    path = saved(tmp_path / "a.npz", a=np.ones(3))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02") + place
    width = 2 if place == 10 else 4
    content[entry : entry + width] = value.to_bytes(width, "little")
    path.write_bytes(content)
    assert refused(path).subject in ("given.npz", "a in given.npz")
