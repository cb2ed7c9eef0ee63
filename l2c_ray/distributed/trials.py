"""The trials of a study on the cluster: Ray tasks, side by side."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from l2c_ray.config.search import SearchConfig
from l2c_ray.distributed.run_monitor import start_monitor
from l2c_ray.distributed.trial import OUTAGES, Environment, TrialTask, run_trial
from l2c_ray.learning.progress import Progress
from l2c_ray.search.results import Result, TrialSpec
from l2c_ray.storage import addresses

RunTrial = Callable[[TrialTask, Any, Environment], Result]


class RayTrials:
    """An `Executor` on the cluster; a context manager that ends its trials."""

    def __init__(self, config: SearchConfig, study: str, storage: str, run: RunTrial = run_trial) -> None:
        """Starts without a trial.

        Args:
            storage: address of the storage of the study's trials.
            run: runs one trial on a worker.
        """
        self._config = config
        self._study = study
        self._storage = storage
        self._monitor = start_monitor()
        # A lost trial is the study's to run again, which alone knows how often, and by whom.
        self._run = ray.remote(run).options(max_retries=0, **needs_of_a_trial(config))
        self._environment = ray.put(addresses.environment())
        self._running: dict[Any, int] = {}

    def __enter__(self) -> "RayTrials":
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._running:
            ray.cancel(task, force=True)
        ray.kill(self._monitor)

    def submit(self, spec: TrialSpec) -> None:
        task = TrialTask(
            spec=spec,
            study=self._study,
            learn=self._config.learn_config(spec.params).model_dump(by_alias=True),
            derive=self._config.derive,
            storage=self._storage,
            lease_seconds=self._config.study.lease_seconds,
        )
        self._running[self._run.remote(task, self._monitor, self._environment)] = spec.number

    def results(self, seconds: float) -> Mapping[int, Result]:
        if not self._running:
            # Waits for the trials of other drivers.
            time.sleep(seconds)
            return {}
        done, _ = ray.wait(list(self._running), timeout=seconds)
        if done:
            # All others that are ready by now cost no more waiting.
            done, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        return {self._running.pop(task): _result_of(task) for task in done}

    def progress(self) -> Mapping[int, Sequence[Progress]]:
        taken: dict[int, list[Progress]] = ray.get(self._monitor.take.remote())
        return taken

    def stop(self, number: int) -> None:
        self._monitor.stop.remote(number)


def needs_of_a_trial(config: SearchConfig) -> dict[str, float]:
    """Ray resources of a trial's task; none of a trial with workers of its own, for which it only waits."""
    if has_workers_of_its_own(config):
        return {"num_cpus": 0}
    return {"num_cpus": config.study.cpus_per_trial, "num_gpus": config.study.gpus_per_trial}


def has_workers_of_its_own(config: SearchConfig) -> bool:
    """Whether a trial is a Ray Train run."""
    return config.learn_config(config.corners()[0]).cluster.workers > 1


def _result_of(task: Any) -> Result:
    try:
        result: Result = ray.get(task)
        return result
    except RayTaskError as error:
        if isinstance(error.cause, OUTAGES):
            raise error.cause from error
        return Result("failed", reason=str(error).strip().splitlines()[-1])
    except RayError as error:
        return Result("lost", reason=f"its worker died ({type(error).__name__})")
