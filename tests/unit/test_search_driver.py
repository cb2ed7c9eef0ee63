"""The driver's loop: drivers that are killed at any moment, trials that are lost, and those that are stopped early."""

import multiprocessing
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from real_cluster import wait_until
from real_database import running_database
from search_factories import Driver, finished, search_config
from searches import TRIALS, Here, takes_a_moment, work, work_elsewhere

from l2c_ray.errors import LearningStoppedError
from l2c_ray.search.driver import drive
from l2c_ray.search.results import Result, TrialSpec
from l2c_ray.search.storage import STORAGE_VARIABLE


def have_begun(begun: Path, drivers: Sequence[BaseProcess]) -> bool:
    """Whether a trial has, or there is none left."""
    return begun.exists() or not any(driver.is_alive() for driver in drivers)


@pytest.mark.usefixtures("storage")
def test_drivers_killed_at_random_moments_lose_and_double_nothing(tmp_path: Path) -> None:
    # What forks has to be without threads, which this process may have, and what loads torch anew takes long.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["l2c_ray.search.driver", "optuna"])
    moments = random.Random(0)
    begun = tmp_path / "begun"
    for number in range(4):
        begun.unlink(missing_ok=True)
        drivers = [
            processes.Process(target=work_elsewhere, args=(dict(os.environ), begun, number == 0)) for _ in range(2)
        ]
        for driver in drivers:
            driver.start()
        # Now and then also while the drivers open the study.
        if number % 2 == 0:
            wait_until(partial(have_begun, begun, drivers))
        for driver in drivers:
            time.sleep(moments.uniform(0.0, 0.3))
            driver.kill()
            driver.join()
    trials = work().study.get_trials()
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    learned = [trial for trial in complete if "parent" not in trial.user_attrs]
    derived = [trial for trial in complete if "parent" in trial.user_attrs]
    assert len(learned) == TRIALS
    assert sorted(trial.user_attrs["parent"] for trial in derived) == sorted(trial.number for trial in learned)
    lost = [trial.number for trial in trials if trial.state.name == "FAIL"]
    assert lost
    assert sorted(trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs) == lost
    assert len(complete) + len(lost) == len(trials)


def test_lost_trial_is_run_again_in_the_same_search() -> None:
    tries: list[TrialSpec] = []

    def dies_at_first(spec: TrialSpec) -> Result:
        tries.append(spec)
        return Result("lost", reason="its worker died") if spec.number == spec.origin else finished()

    trials = work(dies_at_first).study.get_trials()
    assert [trial.state.name for trial in trials].count("COMPLETE") == TRIALS
    assert len(tries) == 2 * TRIALS
    assert {spec.origin for spec in tries} == {spec.number for spec in tries if spec.number == spec.origin}


def test_search_that_is_stopped_gives_its_trials_back() -> None:
    rounds: list[int] = []

    def stop_in_the_third_round() -> None:
        rounds.append(1)
        if len(rounds) == 3:
            raise LearningStoppedError("study shared", "was stopped", "go on")

    with pytest.raises(LearningStoppedError):
        work(check=stop_in_the_third_round)
    trials = work().study.get_trials()
    # None waited for its lease to run out.
    reasons = [trial.user_attrs["reason"] for trial in trials if "reason" in trial.user_attrs]
    assert reasons
    assert set(reasons) == {"its driver was stopped"}


def test_database_that_is_restarted_costs_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    restarts: list[Future[None]] = []
    with running_database() as server, ThreadPoolExecutor(1) as pool:
        monkeypatch.setenv(STORAGE_VARIABLE, server.make("studies"))

        def during_a_restart(spec: TrialSpec) -> Result:
            if not restarts:
                server.stop()
                restarts.append(pool.submit(server.start))
            return takes_a_moment(spec)

        trials = work(during_a_restart).study.get_trials()
    assert restarts[0].result() is None
    learned = [trial for trial in trials if "parent" not in trial.user_attrs]
    assert [trial.state.name for trial in learned] == ["COMPLETE"] * TRIALS


def test_trial_that_learns_badly_is_stopped_early() -> None:
    config = search_config(study={"trials": 7, "pruner": "median"}, objective={"max_cost": 0.9})
    for trials, errors in ((6, [0.1] * 20), (7, [9.0] * 20)):
        more = config.model_copy(update={"study": config.study.model_copy(update={"trials": trials})})
        driver = Driver(more, f"until {trials}", time.time)
        here = Here(takes_a_moment, errors)
        drive(driver.ledger, here, 1, 20, lambda progress: progress.error, False, lambda result: None, lambda: None)
    states = [trial.state.name for trial in driver.study.get_trials() if "parent" not in trial.user_attrs]
    assert states == ["COMPLETE"] * 6 + ["PRUNED"]
