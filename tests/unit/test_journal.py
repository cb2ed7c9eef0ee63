"""A study's journal on a disk that is full, and behind a writer that never came to the end of its line."""

from pathlib import Path

import optuna
import pytest

from l2c_ray.errors import StorageError
from l2c_ray.search.storage import StudyStorage


@pytest.fixture
def home(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("L2C_HOME", str(small_disk))
    return small_disk


def test_full_disk_is_told_and_the_study_goes_on_when_there_is_room(home: Path) -> None:
    study = optuna.create_study(storage=StudyStorage("full").optuna, study_name="full")
    filler = home / "filler"
    # All but a few pages, one of which ends within a line.
    filler.write_bytes(bytes((1 << 20) - 5 * 4096))
    with pytest.raises(StorageError, match=r"full\.journal.*No space left"):
        fill(study)
    filler.unlink()
    told = sum("note" in trial.user_attrs for trial in study.trials)
    assert told > 0
    for running in (study, open_again("full")):
        running.ask().set_user_attr("note", "more")
    notes = [trial.user_attrs.get("note", "") for trial in open_again("full").trials]
    assert [note for note in notes if note] == ["x" * 1000] * told + ["more"] * 2


def test_half_a_line_of_a_writer_that_died_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("L2C_HOME", str(tmp_path))
    optuna.create_study(storage=StudyStorage("torn").optuna, study_name="torn").ask()
    with (tmp_path / "studies" / "torn.journal").open("ab") as journal:
        journal.write(b'{"op_code":4,"trial')
    study = open_again("torn")
    study.ask()
    assert len(open_again("torn").trials) == 2


def fill(study: optuna.Study) -> None:
    for _ in range(1000):
        study.ask().set_user_attr("note", "x" * 1000)


def open_again(name: str) -> optuna.Study:
    return optuna.load_study(storage=StudyStorage(name).optuna, study_name=name)
