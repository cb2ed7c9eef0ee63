"""A study that is there already is gone on with if it is the one that is asked for, and left as it is if not."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial
from search_factories import Clock, Driver, finished, run_all, search_config

from l2c_ray.errors import ConfigError, SearchError, StorageError
from l2c_ray.search.frontier import finished_trials
from l2c_ray.search.identity import mark_storage
from l2c_ray.search.storage import STORAGE_VARIABLE, StudyStorage, with_retries
from l2c_ray.search.study import StudyObjective
from l2c_ray.storage.opening import open_store

NAME = "shared"
SPACE: dict[str, BaseDistribution] = {
    "router.lambda": FloatDistribution(1e-5, 1e-3, log=True),
    "training.batch_size": IntDistribution(2, 8),
}
PARAMS = {"router.lambda": 1e-4, "training.batch_size": 4}
MEASURED = {"compute_share": 0.5, "mse": 1e-3, "seconds": 1.0, "schedule": "s", "sha256": "a" * 64}


def begin(study: str = NAME) -> Driver:
    return Driver(search_config(study={"trials": 3}), "a", Clock(), study)


def theirs(**settings: Any) -> optuna.Study:
    """A study that another program makes in the place of ours."""
    return optuna.create_study(storage=StudyStorage(NAME).optuna, study_name=NAME, **settings)


def told() -> list[object]:
    """All that the study says of itself."""
    study = optuna.load_study(storage=StudyStorage(NAME).optuna, study_name=NAME)
    return [study.user_attrs, study.metric_names, study.directions, *study.trials]


def add(study: optuna.Study, params: dict[str, Any], **more: Any) -> None:
    told = {"distributions": {key: SPACE.get(key, FloatDistribution(0, 1)) for key in params}, "user_attrs": MEASURED}
    study.add_trial(create_trial(params=params, values=[0.5, 1e-3], **(told | more)))


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize(
    "make",
    [
        lambda: theirs().ask(),
        lambda: theirs(directions=["minimize", "minimize"]).ask(),
        lambda: theirs(directions=["maximize", "minimize"]).set_user_attr("note", "mine"),
        lambda: theirs(direction="maximize"),
        lambda: theirs(directions=["minimize"] * 3),
    ],
)
def test_study_of_another_program_is_refused_and_left_as_it_is(make: Callable[[], object]) -> None:
    make()
    require_refused_and_left()


@pytest.mark.usefixtures("storage")
def test_database_keeps_the_study_of_another_program_as_it_is() -> None:
    theirs().ask()
    require_refused_and_left()


def require_refused_and_left() -> None:
    before = told()
    with pytest.raises(ConfigError, match=f"study.name: study {NAME} .*; choose another name"):
        begin()
    assert told() == before


@pytest.mark.usefixtures("journal")
def test_study_whose_first_driver_died_as_it_made_it_is_begun() -> None:
    theirs(directions=["minimize", "minimize"])
    assert run_all(begin()) == 3


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize(
    ("params", "more", "key"),
    [
        ({"router.lambda": 1e-4}, {}, "trial 0 without space.training.batch_size"),
        (PARAMS | {"router.theta": 0.5}, {}, "trial 0 with space.router.theta"),
        (
            PARAMS,
            {"distributions": SPACE | {"router.lambda": FloatDistribution(1e-5, 1e-3)}},
            "trial 0 of another range of space.router.lambda",
        ),
        (PARAMS, {"user_attrs": {}}, "user attribute compute_share: field required"),
        (PARAMS, {"user_attrs": MEASURED | {"mse": "small"}}, "user attribute mse"),
        (PARAMS, {"user_attrs": MEASURED | {"derived": [{"mse": 1}]}}, "user attribute derived.0"),
        (PARAMS, {"user_attrs": MEASURED | {"lease_until": "tomorrow"}}, "user attribute lease_until"),
        (PARAMS, {"user_attrs": MEASURED | {"attempt": "first"}}, "user attribute attempt"),
    ],
)
def test_trial_of_another_program_in_our_study_is_named(params: dict[str, Any], more: dict[str, Any], key: str) -> None:
    add(begin().study, params, **more)
    with pytest.raises(ConfigError, match=f"study.name: study {NAME} has .*{key}"):
        begin()


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize(("attribute", "value"), [("settings", [1]), ("settings", {}), ("drivers", "two")])
def test_notes_of_a_study_that_are_not_ours_are_refused(attribute: str, value: object) -> None:
    begin().study.set_user_attr(attribute, value)
    with pytest.raises(ConfigError, match=f"study.name: study {NAME} "):
        begin()


@pytest.mark.usefixtures("journal")
def test_measured_trial_that_another_program_adds_meanwhile_is_passed_over() -> None:
    driver = begin()
    add(driver.study, PARAMS, user_attrs={})
    trial = driver.ledger.ask()
    assert trial is not None
    driver.ledger.tell(trial.number, finished())
    objective = StudyObjective(search_config().objective)
    assert [each.number for each in finished_trials(driver.study, objective)] == [trial.number]


@pytest.mark.usefixtures("storage")
def test_study_that_is_deleted_meanwhile_is_told_in_one_line() -> None:
    driver = begin()
    optuna.delete_study(study_name=NAME, storage=StudyStorage(NAME).optuna)
    with pytest.raises(SearchError, match="as if another program had deleted or changed it"):
        with_retries(driver.ledger.ask)


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize("line", [b"{", b"[]", b"1", b'{"op_code": 7}', b'{"op_code": 0}', b"\xff", b"[" * 100_000])
def test_damaged_journal_is_refused_naming_the_file(line: bytes, tmp_path: Path) -> None:
    begin()
    (file,) = (tmp_path / "home" / "studies").glob("*.journal")
    file.write_bytes(line + b"\n" + file.read_bytes())
    with pytest.raises(StorageError, match=r"shared\.journal: is no journal of a study or is damaged"):
        begin()


@pytest.mark.usefixtures("journal")
def test_journal_that_is_no_ordinary_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "studies"
    folder.mkdir(parents=True)
    (folder / f"{NAME}.journal").symlink_to("/dev/zero")
    with pytest.raises(StorageError, match="is no ordinary file"):
        begin()


def test_file_that_is_no_database_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but some text of mine" * 100)
    monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path / 'notes.txt'}")
    with pytest.raises(StorageError, match=f"{STORAGE_VARIABLE}: studies cannot be kept there"):
        begin()


def test_database_of_another_program_gets_no_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(tmp_path / "theirs.db") as database:
        database.execute("create table alembic_version (version_num varchar(32))")
        database.execute("insert into alembic_version values ('abc')")
    monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path / 'theirs.db'}")
    with pytest.raises(StorageError, match="tables of another program"):
        begin()
    with sqlite3.connect(tmp_path / "theirs.db") as database:
        assert [name for (name,) in database.execute("select name from sqlite_master")] == ["alembic_version"]


@pytest.mark.usefixtures("journal")
def test_trials_of_an_earlier_study_of_the_same_name_are_refused(tmp_path: Path) -> None:
    place = open_store(str(tmp_path / "trials"))
    first = begin().study
    for _ in range(2):
        mark_storage(first, place)
    place.put("trial-0000/state.safetensors", b"of the first study")
    (tmp_path / "home" / "studies" / f"{NAME}.journal").unlink()
    with pytest.raises(ConfigError, match=f"study.name: {place.address} holds the trials of another study"):
        mark_storage(begin().study, place)
    mark_storage(begin().study, open_store(str(tmp_path / "elsewhere")))
