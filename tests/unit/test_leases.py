"""Trials are leased: none is lost or done twice, whoever dies when, on every storage that a study may be kept in."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from optuna.trial import TrialState
from search_factories import LOST, NAN, Clock, Driver, finished, measurement, run_all, search_config
from sqlalchemy.exc import SQLAlchemyError

from l2c_ray.search.frontier import finished_trials, frontier
from l2c_ray.search.study import StudyObjective


@pytest.mark.usefixtures("storage")
def test_drivers_at_once_meet_the_number_exactly() -> None:
    config = search_config(study={"trials": 12})
    drivers = [Driver(config, name, Clock()) for name in ("a", "b", "c")]
    counts: dict[int, int] = {}
    threads = [threading.Thread(target=lambda each=each: counts.update({id(each): run_all(each)})) for each in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts.values()) == 12
    assert drivers[0].states() == ["COMPLETE"] * 12
    # Each driver draws from a seed of its own.
    assert len({trial.params["router.lambda"] for trial in drivers[0].study.get_trials()}) == 12


@pytest.mark.usefixtures("storage")
def test_trial_of_a_dead_driver_is_run_by_one_of_two_others() -> None:
    clock = Clock()
    config = search_config(study={"trials": 1, "lease_seconds": 60.0})
    dead, first, second = (Driver(config, name, clock) for name in ("dead", "first", "second"))
    lost = dead.ledger.ask()
    assert lost is not None
    assert first.ledger.ask() is None
    clock.now += 61
    asked = [each.ledger.ask() for each in (first, second)]
    taken, nothing = asked
    assert taken is not None
    assert nothing is None
    assert taken.params == lost.params
    assert first.attribute(taken.number, "retry_of") == lost.number
    assert "driver dead was not heard of" in first.attribute(lost.number, "reason")
    assert taken.origin == lost.number
    # It was only slow: its result comes too late.
    assert not dead.ledger.tell(lost.number, finished(measurement(mse=0.5)))
    assert dead.ledger.renew() == []
    assert first.ledger.tell(taken.number, finished())
    assert second.ledger.is_over()
    assert first.states() == ["FAIL", "COMPLETE"]


@pytest.mark.usefixtures("storage")
def test_two_drivers_race_for_the_trials_of_a_dead_one() -> None:
    clock = Clock()
    config = search_config(study={"trials": 3, "lease_seconds": 60.0})
    dead = Driver(config, "dead", clock)
    for _ in range(3):
        dead.ledger.ask()
    clock.now += 61
    drivers = [Driver(config, name, clock) for name in ("first", "second")]
    start = threading.Barrier(2)

    def race(driver: Driver) -> None:
        start.wait()
        run_all(driver)

    threads = [threading.Thread(target=race, args=(each,)) for each in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(dead.states()) == ["COMPLETE"] * 3 + ["FAIL"] * 3
    assert sorted(dead.attribute(number, "retry_of") for number in range(3, 6)) == [0, 1, 2]


@pytest.mark.usefixtures("journal")
def test_lease_that_is_renewed_is_kept() -> None:
    clock = Clock()
    config = search_config(study={"trials": 1, "lease_seconds": 60.0})
    slow, other = (Driver(config, name, clock) for name in ("slow", "other"))
    trial = slow.ledger.ask()
    assert trial is not None
    for _ in range(5):
        clock.now += 40
        assert slow.ledger.renew() == []
        assert other.ledger.ask() is None
    assert slow.ledger.tell(trial.number, finished())
    assert slow.states() == ["COMPLETE"]


@pytest.mark.parametrize("prepare", [lambda driver: None, lambda driver: lose_lock_once(driver)], ids=["", "lock lost"])
@pytest.mark.usefixtures("journal")
def test_driver_is_told_the_trials_that_it_has_lost(prepare: Callable[[Driver], None]) -> None:
    clock = Clock()
    config = search_config(study={"trials": 1, "lease_seconds": 60.0})
    asleep, other = (Driver(config, name, clock) for name in ("asleep", "other"))
    lost = asleep.ledger.ask()
    assert lost is not None
    clock.now += 61
    assert other.ledger.ask() is not None
    prepare(asleep)
    assert asleep.ledger.renew() == [lost.number]


@pytest.mark.usefixtures("storage")
def test_driver_killed_before_it_had_its_lease_loses_nothing() -> None:
    config = search_config(study={"trials": 2})
    killed, other = (Driver(config, name, Clock()) for name in ("killed", "other"))
    # What is there when a driver dies between two writes.
    killed.study.ask()
    assert run_all(other) == 2
    assert other.states() == ["FAIL", "COMPLETE", "COMPLETE"]


@pytest.mark.usefixtures("journal")
def test_driver_killed_before_it_enqueued_a_retry_loses_nothing() -> None:
    config = search_config(study={"trials": 1})
    killed, other = (Driver(config, name, Clock()) for name in ("killed", "other"))
    trial = killed.ledger.ask()
    assert trial is not None
    killed.set_attribute(trial.number, "run_again", True)
    killed.set_attribute(trial.number, "attempt", 1)
    killed.study.tell(trial.number, state=TrialState.FAIL)
    assert run_all(other) == 1
    assert other.attribute(1, "retry_of") == 0


@pytest.mark.usefixtures("storage")
def test_trial_that_kills_its_workers_is_given_up_in_the_end() -> None:
    config = search_config(study={"trials": 1, "max_retries": 2})
    driver = Driver(config, "a", Clock())
    for _ in range(3):
        trial = driver.ledger.ask()
        assert trial is not None
        driver.ledger.tell(trial.number, LOST)
    assert driver.ledger.ask() is None
    assert driver.ledger.is_over()
    assert driver.states() == ["FAIL"] * 3
    assert driver.attribute(2, "reason") == "its worker died; given up after 3 tries"
    assert len({trial.params["router.lambda"] for trial in driver.study.get_trials()}) == 1


@pytest.mark.usefixtures("journal")
def test_dead_drivers_cost_a_trial_no_attempt() -> None:
    clock = Clock()
    config = search_config(study={"trials": 1, "max_retries": 0, "lease_seconds": 60.0})
    for name in ("a", "b", "c"):
        assert Driver(config, name, clock).ledger.ask() is not None
        clock.now += 61
    last = Driver(config, "d", clock)
    assert run_all(last) == 1
    assert last.states() == ["FAIL", "FAIL", "FAIL", "COMPLETE"]


@pytest.mark.usefixtures("journal")
def test_stopped_driver_gives_its_trials_back_at_no_attempt() -> None:
    config = search_config(study={"trials": 1, "max_retries": 0})
    for name in ("a", "b", "c"):
        driver = Driver(config, name, Clock())
        assert driver.ledger.ask() is not None
        driver.ledger.release()
    last = Driver(config, "d", Clock())
    assert run_all(last) == 1
    assert last.states() == ["FAIL", "FAIL", "FAIL", "COMPLETE"]


@pytest.mark.usefixtures("journal")
def test_objective_that_is_no_number_fails_the_trial_alone() -> None:
    driver = Driver(search_config(study={"trials": 2}), "a", Clock())
    for result in (NAN, finished()):
        trial = driver.ledger.ask()
        assert trial is not None
        driver.ledger.tell(trial.number, result)
    assert driver.states() == ["FAIL", "COMPLETE"]
    assert driver.attribute(0, "reason") == "mse is nan"
    assert driver.ledger.is_over()


@pytest.mark.usefixtures("storage")
def test_derived_schedules_are_trials_of_their_own_that_do_not_count() -> None:
    config = search_config(study={"trials": 1})
    driver = Driver(config, "a", Clock())
    trial = driver.ledger.ask()
    assert trial is not None
    several = finished(
        measurement(theta=0.5), measurement(mse=2e-3, share=0.4, theta=0.7), measurement(mse=math.nan, theta=0.9)
    )
    assert driver.ledger.tell(trial.number, several)
    # An answer that was lost on its way is asked for again.
    assert driver.ledger.tell(trial.number, several)
    assert driver.ledger.ask() is None
    assert driver.states() == ["COMPLETE", "COMPLETE", "FAIL"]
    assert driver.attribute(1, "parent") == 0
    assert driver.attribute(1, "theta") == 0.7
    assert driver.attribute(2, "reason") == "mse is nan"
    objective = StudyObjective(config.objective)
    assert [(each.number, each.parent) for each in frontier(finished_trials(driver.study, objective))] == [
        (1, 0),
        (0, None),
    ]


@pytest.mark.usefixtures("journal")
def test_driver_killed_before_it_added_derived_schedules_loses_none() -> None:
    config = search_config(study={"trials": 1})
    killed, other = (Driver(config, name, Clock()) for name in ("killed", "other"))
    trial = killed.ledger.ask()
    assert trial is not None
    killed.set_attribute(trial.number, "derived", [vars(measurement(theta=0.7)), vars(measurement(theta=0.9))])
    killed.study.tell(trial.number, [0.5, 1e-3])
    assert other.ledger.is_over()
    assert [other.attribute(number, "theta") for number in range(3)] == [None, 0.7, 0.9]


@pytest.mark.usefixtures("journal")
def test_trial_that_was_about_to_be_given_up_but_was_finished_counts_once() -> None:
    driver = Driver(search_config(study={"trials": 1}), "slow", Clock())
    trial = driver.ledger.ask()
    assert trial is not None
    # What is there when another driver dies as it gives the trial up.
    driver.set_attribute(trial.number, "run_again", True)
    assert driver.ledger.tell(trial.number, finished())
    assert driver.ledger.ask() is None
    assert driver.ledger.is_over()
    assert driver.states() == ["COMPLETE"]


@pytest.mark.usefixtures("storage")
def test_trial_asked_for_as_the_lock_was_lost_is_run_again() -> None:
    driver = Driver(search_config(study={"trials": 2}), "a", Clock())
    lose_lock_once(driver)
    assert run_all(driver) == 2
    assert driver.ledger.is_over()
    assert driver.states() == ["FAIL", "COMPLETE", "COMPLETE"]


def lose_lock_once(driver: Driver) -> None:
    """Fails the next unlocking once, as if the database were restarted just before it."""
    whole, errors = driver.ledger._lock, [SQLAlchemyError("the connection is gone")]

    @contextmanager
    def lock() -> Iterator[None]:
        with whole():
            yield
        if errors:
            raise errors.pop()

    driver.ledger._lock = lock
