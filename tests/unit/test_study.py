"""A study draws by its sampler, keeps its limit, prunes, starts warm, and lives where its address says."""

import pytest
from optuna.trial import create_trial
from real_database import Database
from search_factories import LOST, Clock, Driver, finished, measurement, run_all, search_config

from l2c_ray.errors import ConfigError, UnreachableError
from l2c_ray.search.frontier import finished_trials, frontier
from l2c_ray.search.results import Result
from l2c_ray.search.storage import STORAGE_VARIABLE, StudyStorage
from l2c_ray.search.study import StudyObjective


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "gp", "random"])
@pytest.mark.parametrize(
    ("objective", "answer"),
    [
        ({}, [0.2, 0.4, 0.6]),
        ({"max_mse": 0.5}, [0.6]),
        ({"max_cost": 0.5}, [0.2, 0.4]),
    ],
)
@pytest.mark.usefixtures("journal")
def test_limit_is_kept_without_a_penalty(sampler: str, objective: dict[str, float], answer: list[float]) -> None:
    config = search_config(study={"trials": 3, "sampler": sampler}, objective=objective)
    driver = Driver(config, "a", Clock())
    for share in (0.2, 0.4, 0.6):
        trial = driver.ledger.ask()
        assert trial is not None
        driver.ledger.tell(trial.number, finished(measurement(share=share, mse=1 - share)))
    section = StudyObjective(config.objective)
    assert [each.cost for each in frontier(finished_trials(driver.study, section))] == answer
    values = {"share": [0.2, 0.4, 0.6], "mse": [0.8, 0.6, 0.4]}
    told = list(zip(*(trial.values for trial in driver.study.get_trials()), strict=True))
    names = ["mse"] if "max_cost" in objective else ["share"] if objective else ["share", "mse"]
    assert [pytest.approx(values[name]) for name in names] == [list(each) for each in told]


@pytest.mark.usefixtures("journal")
def test_same_seed_draws_the_same_trials() -> None:
    config = search_config(study={"trials": 4})
    drawn = []
    for study in ("one", "two"):
        driver = Driver(config, "a", Clock(), study)
        run_all(driver)
        drawn.append([trial.params for trial in driver.study.get_trials()])
    assert drawn[0] == drawn[1]


@pytest.mark.usefixtures("journal")
def test_hopeless_trial_is_pruned() -> None:
    config = search_config(study={"trials": 7, "pruner": "median"}, objective={"max_cost": 0.5})
    driver = Driver(config, "a", Clock())
    for _ in range(6):
        trial = driver.ledger.ask()
        assert trial is not None
        assert not driver.ledger.report(trial.number, 1, 0.1)
        driver.ledger.tell(trial.number, finished())
    trial = driver.ledger.ask()
    assert trial is not None
    assert driver.ledger.report(trial.number, 1, 10.0)
    driver.ledger.tell(trial.number, Result("pruned"))
    assert driver.states()[-1] == "PRUNED"
    assert driver.ledger.is_over()


@pytest.mark.usefixtures("journal")
def test_warm_start_is_from_the_nearest_finished_trial() -> None:
    driver = Driver(search_config(study={"trials": 5}), "a", Clock())
    first = driver.ledger.ask(warm_start=True)
    assert first is not None
    assert first.warm_from is None
    driver.ledger.tell(first.number, finished())
    for values in (
        {"router.lambda": 1e-5, "training.batch_size": 2},
        {"router.lambda": 1e-3, "training.batch_size": 8},
    ):
        driver.study.enqueue_trial(values)
        trial = driver.ledger.ask(warm_start=True)
        assert trial is not None
        driver.ledger.tell(trial.number, finished())
    driver.study.enqueue_trial({"router.lambda": 9e-4, "training.batch_size": 8})
    last = driver.ledger.ask(warm_start=True)
    assert last is not None
    assert last.warm_from == 2
    # A later try begins from the same, though another is nearer by then.
    driver.ledger.tell(last.number, LOST)
    frozen = driver.study.get_trials()[last.number]
    driver.study.add_trial(create_trial(values=[0.5, 1e-3], params=frozen.params, distributions=frozen.distributions))
    again = driver.ledger.ask(warm_start=True)
    assert again is not None
    assert again.warm_from == 2
    assert driver.attribute(again.number, "warm_from") == 2


def test_database_of_no_encoding_keeps_studies(database_server: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    address = database_server.make("ascii", "encoding 'SQL_ASCII' template template0")
    # By the name of the database alone, as other programs take it.
    monkeypatch.setenv(STORAGE_VARIABLE, address.replace("postgresql+psycopg", "postgresql"))
    assert run_all(Driver(search_config(study={"trials": 2}), "a", Clock())) == 2


@pytest.mark.usefixtures("journal")
def test_study_goes_on_with_more_trials_but_not_with_another_space() -> None:
    run_all(Driver(search_config(study={"trials": 2}), "a", Clock()))
    more = Driver(search_config(study={"trials": 3, "sampler": "random"}), "b", Clock())
    assert run_all(more) == 1
    wider = search_config(space={"training.batch_size": {"low": 2, "high": 16}})
    with pytest.raises(
        ConfigError, match=r"study.name: study shared was begun with another space.training.batch_size.high"
    ):
        Driver(wider, "c", Clock())


@pytest.mark.parametrize(
    "address",
    [
        "nonsense",
        "mysql://user:s3cret@127.0.0.1/studies",
        "mysql://127.0.0.1/studies?password=s3cret",
        "postgresql+nope://user:s3cret@127.0.0.1/studies",
        "postgresql+psycopg://user:s3cret@127.0.0.1",
        "sqlite+aiosqlite:///studies.db",
        "sqlite:///:memory:",
    ],
)
def test_address_that_keeps_no_study_is_refused_without_its_password(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, address)
    with pytest.raises(ConfigError, match=STORAGE_VARIABLE) as caught:
        StudyStorage("any")
    assert "s3cret" not in str(caught.value)


def test_database_that_is_away_is_told_without_its_password(unused_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, f"postgresql+psycopg://user:s3cret@127.0.0.1:{unused_port}/studies")
    with pytest.raises(UnreachableError, match="the database of the study does not answer") as caught:
        StudyStorage("any")
    assert "s3cret" not in str(caught.value)
