"""Connecting to Ray, and checking that the cluster has room before anything starts."""

import atexit
import logging
import os
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import AuthenticationError, RayError
from ray.util import get_node_ip_address, placement_group, remove_placement_group

from l2c_ray.config.learn import ClusterSection
from l2c_ray.distributed.temporary_folder import make_temporary_folder, temp_dir_in
from l2c_ray.errors import InvalidInputError, ResourcesError, UnreachableError
from l2c_ray.logs import logger

_log = logger(__name__)

_CONNECT_SECONDS = 5
_NOTICE_SECONDS = 3
"""Time that resources may be busy before a message; a job that has just ended gives its own back by then."""

# The opening of HTTP/2, which Ray speaks: the preface and an empty SETTINGS frame, to be answered by such a frame.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS_FRAME = 4


def connect() -> None:
    """Joins the cluster that `$RAY_ADDRESS` names, as it does inside a job, or starts a private one.

    Raises:
        InvalidInputError: `$RAY_ADDRESS` is no host:port.
        UnreachableError: the cluster there does not answer, or does not let this user in.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address not in ("local", "auto"):
        _knock(address)
    if ray.is_initialized():
        return
    try:
        ray.init(address=address, log_to_driver=False, **_options(address))
    except (OSError, RuntimeError, ValueError, RayError) as error:
        # Ray wraps this error in others, which can be told apart by their text alone.
        if AuthenticationError.__name__ in f"{error!r} {error.__cause__!r}":
            remedy = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as the cluster has them"
            raise UnreachableError(address, "the Ray cluster there does not let you in", remedy) from error
        raise _unreachable(address, error) from error


def _options(address: str) -> dict[str, Any]:
    if address != "local":
        return {}
    folder = make_temporary_folder()
    atexit.register(_end, folder)
    # Clients have to show the user's token, which is how it should be, and Ray warns of it.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    # A dozen processes less, and nobody knows the address of a Ray that ends with this process.
    return {"include_dashboard": False, "_temp_dir": str(temp_dir_in(folder))}


def _end(folder: Path) -> None:
    """Shuts down the Ray that this process has started."""
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def _knock(address: str) -> None:
    """Checks within seconds that a Ray head answers; Ray's own attempts to connect go on for minutes."""
    try:
        given = urlsplit(f"//{address}")
        host, port = given.hostname, given.port
    except ValueError:
        host, port = None, None
    if not host or not port or "://" in address:
        raise _no_address(address)
    if host in ("localhost", "127.0.0.1", "::1"):
        # So does Ray, unless it is told that the cluster is on loopback alone.
        host = get_node_ip_address()
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
                connection.sendall(_HELLO)
                answer = connection.recv(9)
                if len(answer) < 9 or answer[3] != _SETTINGS_FRAME:
                    raise ConnectionError("something else than a Ray head listens there")
    except UnicodeError as error:
        raise _no_address(address) from error
    except OSError as error:
        raise _unreachable(address, error, host) from error


def _no_address(address: str) -> InvalidInputError:
    remedy = "give the host:port of a Ray head, or unset it to start a Ray of your own"
    return InvalidInputError("RAY_ADDRESS", f"{address} is no host:port", remedy)


def _unreachable(address: str, error: Exception, host: str = "") -> UnreachableError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    remedy = "start it or unset RAY_ADDRESS"
    if host and host not in address:
        remedy += f" (Ray looks at {host}; for a head on loopback alone set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0)"
    return UnreachableError(address, f"Ray does not answer ({reason})", remedy)


def needs_of_a_worker(wanted: ClusterSection) -> dict[str, float]:
    """Ray resources of one worker: its CPUs, and a GPU where every worker finds one beside them."""
    cpus = {"CPU": float(wanted.cpus_per_worker)}
    with_gpu = cpus | {"GPU": 1.0}
    return with_gpu if _places(with_gpu) >= wanted.workers else cpus


def with_more_workers(wanted: ClusterSection, most: int) -> ClusterSection:
    """The same section with more workers, `most` at most, as far as the nodes have places for such workers."""
    places = _places(needs_of_a_worker(wanted))
    return wanted.model_copy(update={"workers": max(wanted.workers, min(most, places))})


def require(wanted: ClusterSection) -> None:
    """Refuses a config that the nodes of the cluster could not run even if they were idle.

    Raises:
        ResourcesError: names the key that asks for too much.
    """
    largest = max((node.get("CPU", 0) for node in _nodes()), default=0)
    if wanted.cpus_per_worker > largest:
        raise ResourcesError(
            "cluster.cpus_per_worker",
            f"a worker needs {wanted.cpus_per_worker} CPUs on one node, the largest node has {largest:.0f}",
            "lower it or add a larger node",
        )
    places = _places({"CPU": wanted.cpus_per_worker})
    if wanted.workers > places:
        raise ResourcesError(
            "cluster.workers",
            f"{_in_words(wanted)} do not fit, the cluster's nodes have room for {places}",
            "lower cluster.workers or cluster.cpus_per_worker, or add nodes",
        )


def require_places(needs: Mapping[str, float], count: int, key: str) -> None:
    """Refuses more tasks with these needs, which may be fractions of a CPU or GPU, than the nodes have room for.

    Raises:
        ResourcesError: names the config's key.
    """
    places = _places({name: amount for name, amount in needs.items() if amount})
    if count > places:
        wanted = " and ".join(f"{amount:g} {name}" for name, amount in needs.items() if amount)
        problem = f"{count} of {wanted} each do not fit, the cluster's nodes have room for {places}"
        raise ResourcesError(key, problem, "lower it, or ask for less each, or add nodes")


def wait_for_room(wanted: ClusterSection) -> None:
    """Waits until other jobs leave room for the workers, with a message while it waits.

    Raises:
        ResourcesError: there was none for `cluster.wait_seconds`.
    """
    group = placement_group([needs_of_a_worker(wanted)] * wanted.workers)
    start = time.monotonic()
    warned = False
    try:
        # In short waits, because Ray lets no signal through while it waits.
        while not group.wait(1):
            waited = time.monotonic() - start
            if waited >= wanted.wait_seconds:
                raise ResourcesError(
                    "cluster.workers",
                    f"{_in_words(wanted)} found no room for {wanted.wait_seconds} s, {_what_is_free()}",
                    "stop other jobs, ask for less, or raise cluster.wait_seconds",
                )
            if waited >= _NOTICE_SECONDS and not warned:
                warned = True
                _log.warning("waiting for room for %s: %s", _in_words(wanted), _what_is_free())
    finally:
        remove_placement_group(group)


def _nodes() -> list[dict[str, float]]:
    """Resources of every node that is alive, used or not."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _places(needs: dict[str, float]) -> int:
    """Number of workers with these needs for which the nodes have room; a worker is on one node."""
    return sum(min(int(node.get(name, 0) // amount) for name, amount in needs.items()) for node in _nodes())


def _in_words(wanted: ClusterSection) -> str:
    needs = [f"{amount:.0f} {name}" for name, amount in needs_of_a_worker(wanted).items()]
    return f"{wanted.workers} workers of {' and '.join(needs)}"


def _what_is_free() -> str:
    free, total = ray.available_resources(), ray.cluster_resources()
    amounts = [f"{free.get(name, 0):.0f} of {total[name]:.0f} {name}" for name in ("CPU", "GPU") if name in total]
    return f"{' and '.join(amounts)} are free"
