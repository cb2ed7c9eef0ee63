"""Connecting to Ray, and asking whether the cluster is large enough before anything starts."""

import os

import ray

from l2c_ray.config.learn import ClusterSection
from l2c_ray.errors import ResourcesError, UnreachableError


def connect() -> None:
    """Joins the cluster that `$RAY_ADDRESS` names, as it does inside a job; without one, starts one of its own.

    Raises:
        UnreachableError: the cluster at `$RAY_ADDRESS` does not answer.
    """
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS", "local"), ignore_reinit_error=True, log_to_driver=False)
    except ConnectionError as error:
        address = os.environ.get("RAY_ADDRESS", "the local Ray cluster")
        reason = str(error).splitlines()[0]
        raise UnreachableError(address, f"Ray does not answer ({reason})", "start it or unset RAY_ADDRESS") from error


def gpus_per_worker(workers: int) -> int:
    """One where the cluster has a GPU for each of the workers, else none."""
    return int(ray.cluster_resources().get("GPU", 0) >= workers)


def require(wanted: ClusterSection) -> None:
    """Refuses a config that the cluster could never run.

    Raises:
        ResourcesError: names the key that asks for too much.
    """
    needed = wanted.workers * wanted.cpus_per_worker
    present = int(ray.cluster_resources().get("CPU", 0))
    if needed > present:
        raise ResourcesError(
            "cluster.workers",
            f"{wanted.workers} workers need {needed} CPUs, the cluster has {present}",
            "lower cluster.workers or cluster.cpus_per_worker, or add nodes",
        )
