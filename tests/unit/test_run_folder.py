from pathlib import Path

import pytest
import torch

from l2c_ray.distributed.run_folder import open_storage, resume
from l2c_ray.errors import ConfigError, StorageError
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.opening import open_store
from l2c_ray.storage.tensors import write_tensors

SETTINGS = {"lambda": 1e-4, "seed": 0}


@pytest.fixture
def runs(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mine"


def checkpoint(folder: Path, iteration: int) -> None:
    write_tensors(folder / f"checkpoint_{iteration}" / "state.safetensors", {"iteration": torch.tensor(iteration)})


def test_new_run_has_done_nothing(runs: ObjectStore) -> None:
    assert resume(runs, "mine", SETTINGS, 10) == 0


def test_run_goes_on_with_the_same_settings_from_its_last_checkpoint(runs: ObjectStore, folder: Path) -> None:
    resume(runs, "mine", SETTINGS, 10)
    checkpoint(folder, 4)
    checkpoint(folder, 10)
    assert resume(runs, "mine", SETTINGS, 10) == 10
    assert resume(runs, "mine", SETTINGS, 20) == 10


@pytest.mark.parametrize(
    "state",
    [
        {"other": torch.tensor(5)},
        {"iteration": torch.tensor([5, 6])},
        {"iteration": torch.tensor(float("nan"))},
        {"iteration": torch.tensor(-5)},
    ],
)
def test_file_that_is_no_learners_state_does_not_count(
    runs: ObjectStore, folder: Path, state: dict[str, torch.Tensor]
) -> None:
    resume(runs, "mine", SETTINGS, 10)
    checkpoint(folder, 4)
    write_tensors(folder / "checkpoint_5" / "state.safetensors", state)
    assert resume(runs, "mine", SETTINGS, 10) == 4


def test_checkpoint_that_was_cut_off_does_not_count(runs: ObjectStore, folder: Path) -> None:
    resume(runs, "mine", SETTINGS, 10)
    checkpoint(folder, 4)
    checkpoint(folder, 5)
    (folder / "checkpoint_5" / "state.safetensors").write_bytes(b"\x08")
    assert resume(runs, "mine", SETTINGS, 10) == 4


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "3"])
def test_settings_that_are_none_are_told(runs: ObjectStore, folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "settings.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        resume(runs, "mine", SETTINGS, 10)
    assert caught.value.subject == str(folder / "settings.json")


def test_fewer_iterations_than_were_done_are_refused(runs: ObjectStore, folder: Path) -> None:
    resume(runs, "mine", SETTINGS, 10)
    checkpoint(folder, 10)
    with pytest.raises(ConfigError) as caught:
        resume(runs, "mine", SETTINGS, 9)
    assert str(caught.value) == (
        "training.iterations: run mine has done 10 already, more than 9; take at least 10, or another run.name"
    )


def test_other_settings_are_refused_and_the_first_ones_kept(runs: ObjectStore) -> None:
    resume(runs, "mine", SETTINGS, 10)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"run mine was begun with seed = 0, not 1"):
            resume(runs, "mine", SETTINGS | {"seed": 1}, 10)


def test_folder_that_is_no_runs_is_refused_and_left_as_it_is(runs: ObjectStore, folder: Path) -> None:
    checkpoint(folder, 4)
    with pytest.raises(ConfigError, match=rf"run.name: {folder} has something in it"):
        resume(runs, "mine", SETTINGS, 10)
    assert not (folder / "settings.json").exists()


def test_runs_are_where_the_config_says_else_the_variable_else_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("L2C_STORAGE", raising=False)
    assert open_storage(None).address == str(tmp_path / "home" / "runs")
    monkeypatch.setenv("L2C_STORAGE", str(tmp_path / "shared"))
    assert open_storage(None).address == str(tmp_path / "shared")
    assert open_storage(str(tmp_path / "given")).address == str(tmp_path / "given")
    assert open_storage(None).names() == set()


@pytest.mark.parametrize("address", ["s3://Upper", "gs://bucket", "/proc/runs"])
def test_variable_that_names_no_place_is_told(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("L2C_STORAGE", address)
    with pytest.raises(StorageError, match=address):
        open_storage(None)
