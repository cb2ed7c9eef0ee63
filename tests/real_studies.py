"""Small studies on a real cluster, and what is there of them."""

from typing import Any

import optuna
import psutil
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from real_cluster import REPOSITORY, Cluster

SEARCH = REPOSITORY / "jobs" / "configs" / "digits-lambda-search.toml"
TINY = (
    "study.trials=3",
    "learn.training.iterations=10",
    "learn.training.batch_size=4",
    "learn.training.checkpoint_every=5",
    "learn.router.initial_logit=0.3",
    "learn.evaluation.images=8",
    "gate.images=8",
    "gate.resamples=100",
    "space={router.lambda={low=1e-3, high=1e-1, log=true}, training.learning_rate={low=0.2, high=0.4}}",
)
SLOWER = ("study.trials=4", "learn.training.iterations=40", "study.lease_seconds=4", "derive={}")


def journal(cluster: Cluster, study: str) -> list[FrozenTrial]:
    path = cluster.home / "studies" / f"{study}.journal"
    return optuna.load_study(study_name=study, storage=JournalStorage(JournalFileBackend(str(path)))).trials


def checkpoints(cluster: Cluster, study: str) -> int:
    return len(list((cluster.home / "runs" / study).glob("trial-*/state.safetensors")))


def running_trials(cluster: Cluster) -> list[psutil.Process]:
    return cluster.processes("run_trial")


def drivers(study: str) -> list[psutil.Process]:
    """The processes of submitted searches for the study."""
    every = [(process, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [each for each, words in every if "jobs/search.py" in words and f"study.name='{study}'" in words]


def finished(trials: list[FrozenTrial]) -> int:
    return sum(trial.state.name == "COMPLETE" for trial in trials)


def assert_each_but_once(trials: list[FrozenTrial], wanted: int) -> None:
    """Asserts the wanted number of finished trials, none left, and exactly one retry of every lost one."""
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "FAIL"}
    assert finished(trials) == wanted
    lost = [trial.number for trial in trials if trial.state.name == "FAIL"]
    assert sorted(trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs) == lost
    origins: list[Any] = [
        trial.user_attrs.get("origin", trial.number) for trial in trials if trial.state.name == "COMPLETE"
    ]
    assert len(set(origins)) == wanted
