"""Files built to do harm to whoever reads weights and routers: they are refused in one line, and cost little."""

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from tiny_models import UVIT_SHAPE, save_tiny_autoencoder, tiny_dit, tiny_uvit
from unit_factories import model_identity

from l2c_ray.errors import CheckpointError, L2CError
from l2c_ray.evaluation.imagenet import inception
from l2c_ray.evaluation.imagenet.reference import Reference
from l2c_ray.interop import l2c_router, smoothcache
from l2c_ray.interop.formats import recognise
from l2c_ray.models import dit, uvit
from l2c_ray.models.checkpoints import CONFIG, WEIGHTS, digest
from l2c_ray.models.published import read_public
from l2c_ray.models.vae import LatentDecoder
from l2c_ray.sampling.solvers import make_solver
from l2c_ray.storage.pickled import read_pickled
from l2c_ray.storage.tensors import read_tensors

MIB = 1 << 20
MODEL = tiny_dit()


def read_router(path: Path) -> object:
    return l2c_router.read_table(path, MODEL, make_solver("ddim", 4, MODEL), 0.5)


READERS: dict[str, Callable[[Path], object]] = {
    "pickle": read_public,
    "safetensors": read_tensors,
    "U-ViT checkpoint": lambda path: uvit.load_public(UVIT_SHAPE, "tiny", path),
    "router": read_router,
    "SmoothCache": lambda path: smoothcache.read_table(path, model_identity(), 3),
    "format": recognise,
    "hash": digest,
    "Inception": inception.load,
    "reference batch": Reference,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_device_and_pipe_without_an_end_are_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(L2CError, match="no ordinary file") as caught:
            read(path)
        assert caught.value.subject == str(path)
        assert caught.value.exit_code == 2


FOLDERS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object], tuple[Path, ...]]] = {
    "dit": (
        tiny_dit().save,
        lambda folder: dit.load_folder("tiny", folder),
        (WEIGHTS, CONFIG, Path("scheduler", "scheduler_config.json")),
    ),
    "uvit": (
        tiny_uvit().save,
        lambda folder: uvit.load_folder("tiny", folder),
        (WEIGHTS, CONFIG, Path("scheduler", "scheduler_config.json")),
    ),
    "autoencoder": (save_tiny_autoencoder, LatentDecoder, (Path(WEIGHTS.name), Path(CONFIG.name))),
}


@pytest.mark.parametrize(("save_in", "load", "parts"), FOLDERS.values(), ids=FOLDERS)
def test_part_of_a_folder_that_is_no_ordinary_file_is_refused(
    tmp_path: Path, save_in: Callable[[Path], object], load: Callable[[Path], object], parts: tuple[Path, ...]
) -> None:
    save_in(tmp_path)
    for part in parts:
        whole = (tmp_path / part).rename(tmp_path / "whole")
        os.mkfifo(tmp_path / part)
        with pytest.raises(CheckpointError, match="no ordinary file") as caught:
            load(tmp_path)
        assert caught.value.subject == str(tmp_path / part)
        whole.replace(tmp_path / part)
    load(tmp_path)


@pytest.mark.parametrize("content", [b" " * (2 * MIB), b"[" * 100_000, b'{"num_layers": ' + b"9" * 5000 + b"}"])
@pytest.mark.parametrize(("save_in", "load", "parts"), FOLDERS.values(), ids=FOLDERS)
def test_config_that_is_too_large_or_too_deep_is_refused(
    tmp_path: Path,
    save_in: Callable[[Path], object],
    load: Callable[[Path], object],
    parts: tuple[Path, ...],
    content: bytes,
) -> None:
    save_in(tmp_path)
    for part in parts[1:]:
        whole = (tmp_path / part).read_bytes()
        (tmp_path / part).write_bytes(content)
        with pytest.raises(CheckpointError, match=part.name):
            load(tmp_path)
        (tmp_path / part).write_bytes(whole)


@pytest.mark.parametrize("kind", FOLDERS)
def test_config_with_a_byte_order_mark_is_refused_naming_it(tmp_path: Path, kind: str) -> None:
    save_in, load, parts = FOLDERS[kind]
    save_in(tmp_path)
    for path in (tmp_path / part for part in parts[1:]):
        content = path.read_bytes()
        path.write_bytes(b"\xef\xbb\xbf" + content)
        with pytest.raises(CheckpointError, match="byte order mark") as caught:
            load(tmp_path)
        assert caught.value.subject == str(path)
        path.write_bytes(content)
    load(tmp_path)


LARGE = {
    "dit": {"num_layers": 10**9, "sample_size": 10**6, "num_embeds_ada_norm": 10**9, "norm_num_groups": 10**400},
    "uvit": {"depth": 10**9, "image_size": 10**6, "width": 10**9, "num_classes": 10**400},
    "autoencoder": {"layers_per_block": 10**9, "sample_size": 10**6, "block_out_channels": [8, 10**9]},
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_config_of_a_far_larger_model_than_the_weights_is_refused_unbuilt(tmp_path: Path, kind: str) -> None:
    save_in, load, parts = FOLDERS[kind]
    save_in(tmp_path)
    path = tmp_path / parts[1]
    config = json.loads(path.read_text())
    for key, size in LARGE[kind].items():
        path.write_text(json.dumps(config | {key: size}))
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path)
        assert caught.value.subject == f"{key} in {path}"
    path.write_text(json.dumps(config))
    load(tmp_path)


def test_noise_schedule_of_more_timesteps_than_any_is_refused(tmp_path: Path) -> None:
    save_in, load, parts = FOLDERS["uvit"]
    save_in(tmp_path)
    config = json.loads((tmp_path / parts[2]).read_text())
    (tmp_path / parts[2]).write_text(json.dumps(config | {"num_train_timesteps": 10**10}))
    with pytest.raises(CheckpointError, match="^num_train_timesteps in "):
        load(tmp_path)


def rezipped(path: Path, compression: int = zipfile.ZIP_STORED, **changes: bytes) -> Path:
    """A file of torch.save with eight numbers, written anew with some members changed."""
    torch.save({"a": torch.ones(8)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, changes.get(Path(name).stem, content))
    return path


def refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read_pickled(path)
    assert caught.value.subject == str(path)
    assert "\n" not in str(caught.value)
    return caught.value


def peak_growth(act: Callable[[], object]) -> int:
    """By how many bytes more memory was in use at the worst moment than before."""
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    act()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10


def test_deflated_file_takes_no_memory_for_what_it_unpacks_to(tmp_path: Path) -> None:
    path = rezipped(tmp_path / "model.pt", zipfile.ZIP_DEFLATED, **{"0": bytes(256 * MIB)})
    assert path.stat().st_size < MIB
    assert peak_growth(lambda: refusal(path)) < 32 * MIB
    assert "is compressed" in refusal(path).problem


def test_stored_file_written_anew_by_another_tool_is_read(tmp_path: Path) -> None:
    assert torch.equal(read_pickled(rezipped(tmp_path / "model.pt"))["a"], torch.ones(8))


def test_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = rezipped(tmp_path / "model.pt")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/data.pkl", b"")
    assert "model/data.pkl is there more than once" in refusal(path).problem


def test_second_pickle_of_another_case_is_refused(tmp_path: Path) -> None:
    path = rezipped(tmp_path / "model.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/DATA.pkl", b"")
    assert "2 members named data.pkl" in refusal(path).problem


def directory_fields(content: bytes) -> int:
    """Where the first entry of the directory is."""
    return content.index(b"PK\x01\x02")


def test_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = rezipped(tmp_path / "model.pt")
    content = bytearray(path.read_bytes())
    content[directory_fields(content) + 8] |= 1
    path.write_bytes(content)
    assert "is encrypted" in refusal(path).problem


def test_directory_that_claims_more_than_the_file_has_is_refused(tmp_path: Path) -> None:
    path = rezipped(tmp_path / "model.pt")
    content = bytearray(path.read_bytes())
    place = directory_fields(content) + 20
    content[place : place + 8] = struct.pack("<LL", 1 << 31, 1 << 31)
    path.write_bytes(content)
    assert peak_growth(lambda: refusal(path)) < 32 * MIB


def test_archive_behind_another_one_is_refused(tmp_path: Path) -> None:
    # Zipfile would look at the second one, and torch, which takes places as they are written, at the first.
    path = rezipped(tmp_path / "model.pt")
    path.write_bytes(path.read_bytes() * 2)
    assert "its directory is not where its end says" in refusal(path).problem
    rezipped(path)
    path.write_bytes(path.read_bytes() + b"more")
    refusal(path)


LONG = b"X" + struct.pack("<I", 4 * MIB) + b"x" * (4 * MIB)
GLOBAL_ENCODE = b"c_codecs\nencode\n"
OF_2_GIB = b"J\xff\xff\xff\x7f\x85R."
LATIN = b"X\x06\x00\x00\x00latin1"

PICKLES: dict[str, tuple[bytes, str]] = {
    "a key that takes centuries to hash": (b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"K\x01s.", "copies what it holds"),
    "a key too deep to hash": (b"\x80\x02})" + b"\x85" * 900_000 + b"K\x01s.", "tuples within tuples"),
    "bytes of any length": (
        b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        "it asks for bytes of any length",
    ),
    "a tensor of any length": (
        b"\x80\x02ctorch\nFloatTensor\nJ\xff\xff\xff\x7f\x85R.",
        "it calls torch.FloatTensor",
    ),
    "copies of a text": (
        b"\x80\x02]" + GLOBAL_ENCODE + b"q\x00" + LONG + LATIN + b"\x86q\x01Ra" + b"h\x00h\x01Ra" * 1000 + b".",
        "copies what it holds again and again",
    ),
    "a slow text encoding": (
        b"\x80\x02" + GLOBAL_ENCODE + LONG + b"X\x08\x00\x00\x00punycode\x86R.",
        "a text encoding",
    ),
    "copies of a list": (
        b"\x80\x02ccollections\nOrderedDict\nq\x00]("
        + b"K\x01K\x02\x86" * 1000
        + b"eq\x01\x85R"
        + b"h\x00h\x01\x85R" * 10
        + b".",
        "copies what it holds",
    ),
    "copies of a dictionary": (
        b"\x80\x02](}q\x00K\x01K\x01s" + b"ccollections\nOrderedDict\n)Rh\x00b" * 10 + b"e.",
        "copies what it holds again and again",
    ),
    "more objects than weights have": (b"\x80\x02](" + b"}" * 1_100_000 + b"e.", "more than 1000000 steps"),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(("content", "problem"), PICKLES.values(), ids=PICKLES)
def test_pickle_that_asks_for_far_more_than_it_weighs_is_refused(
    tmp_path: Path, content: bytes, problem: str, zipped: bool
) -> None:
    if zipped:
        path = rezipped(tmp_path / "model.pt", data=content)
    else:
        path = tmp_path / "model.pt"
        torch.save({}, path, _use_new_zipfile_serialization=False)
        magic_and_version = path.read_bytes()[:21]
        path.write_bytes(magic_and_version + content)
    refusals: list[CheckpointError] = []
    assert peak_growth(lambda: refusals.append(refusal(path))) < 128 * MIB
    assert problem in refusals[0].problem


def test_pickle_of_more_bytes_than_weights_need_is_refused(tmp_path: Path) -> None:
    path = rezipped(tmp_path / "model.pt", data=bytes(17 * MIB))
    assert "bytes beside the tensors' numbers" in refusal(path).problem


@pytest.mark.parametrize("opening", [b"](", b"}K\x01", b"}(K\x01"], ids=["lists", "dictionaries", "marks"])
def test_pickle_nested_deep_is_refused_and_no_stack_overflows(tmp_path: Path, opening: bytes) -> None:
    for content in (opening * 20_000 + b".", b"](" * 20_000 + b"e" * 20_000 + b"."):
        path = rezipped(tmp_path / "model.pt", data=b"\x80\x02" + content)
        with pytest.raises(CheckpointError):
            read_public(path)


@pytest.mark.parametrize("claimed", [1000, (1 << 31) - 1])
def test_legacy_file_that_claims_more_numbers_than_it_has_is_refused(tmp_path: Path, claimed: int) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.ones(8)}, path, _use_new_zipfile_serialization=False)
    start, storage, rest = path.read_bytes().partition(b"FloatStorage")
    path.write_bytes(start + storage + rest.replace(b"K\x08", b"J" + struct.pack("<i", claimed), 1))
    assert peak_growth(lambda: refusal(path)) < 32 * MIB


def test_key_of_a_router_that_is_nested_deep_is_refused(tmp_path: Path) -> None:
    key: object = ()
    for _ in range(400):
        key = (key,)
    path = tmp_path / "router.pt"
    torch.save({"routers": {key: torch.ones(4)}}, path)
    with pytest.raises(L2CError, match="a key of type tuple in"):
        read_router(path)


def header_of(length: int, text: bytes) -> bytes:
    return struct.pack("<Q", length) + text


SAFETENSORS = {
    "header of 90 MB": header_of(90 * MIB, b"{"),
    "header of all numbers": header_of((1 << 64) - 1, b"{}"),
    "deep header": header_of(100_000, b"[" * 100_000),
    "huge shape": header_of(
        98, json.dumps({"a": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}}).ljust(98).encode()
    ),
    "negative shape": header_of(
        98, json.dumps({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}).ljust(98).encode()
    ),
}


@pytest.mark.parametrize("content", SAFETENSORS.values(), ids=SAFETENSORS)
def test_safetensors_whose_header_lies_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content + bytes(4))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensors(path)


def test_what_is_read_of_a_sound_file_is_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(save({"a": torch.ones(2)}))
    assert torch.equal(read_tensors(path)["a"], torch.ones(2))
