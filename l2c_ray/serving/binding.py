"""Keeps a replica's internal server off the interfaces that its node does not use."""

import ipaddress
from importlib.metadata import version
from typing import Any

import ray
from ray.serve._private import replica

from l2c_ray.errors import InvalidInputError
from l2c_ray.logs import logger

_HOOK = "add_port_to_grpc_server"

_log = logger(__name__)


class UnsupportedRayError(InvalidInputError):
    """With this version of Ray, a replica on loopback would open a port to the network."""


def bind_to_node_address() -> None:
    """Makes the replica in this process listen on its node's address alone; to be called before it has started.

    Ray Serve 2.60 binds the server between deployments, which is not authenticated, to all interfaces, also on a
    node that is on loopback. It has no setting for it, so the function that binds is wrapped.

    Raises:
        UnsupportedRayError: there is no such function, and the node is on loopback.
    """
    address = ipaddress.ip_address(ray.util.get_node_ip_address())
    original = getattr(replica, _HOOK, None)
    if original is None:
        problem = "binds its replicas in a way that cannot be kept off other interfaces"
        if address.is_loopback:
            raise UnsupportedRayError(f"ray {version('ray')}", problem, "install the version that l2c_ray requires")
        _log.warning("ray %s %s; check what they listen on", version("ray"), problem)
        return
    host = f"[{address}]" if address.version == 6 else str(address)

    def bind(server: Any, wanted: str) -> int:
        bound: int = original(server, f"{host}:{wanted.rpartition(':')[2]}")
        return bound

    setattr(replica, _HOOK, bind)
