"""Keeps a replica's internal server off the interfaces that its node does not use."""

import logging
from typing import Any

import ray
from ray.serve._private import replica

_log = logging.getLogger(__name__)


def bind_to_node_address() -> None:
    """Makes the replica in this process listen on its node's address alone; to be called before it has started.

    Ray Serve 2.60 binds the server between deployments, which is not authenticated, to all interfaces, also on a
    node that is on loopback. It has no setting for it, so the function that binds is wrapped.
    """
    original = getattr(replica, "add_port_to_grpc_server", None)
    if original is None:
        _log.warning("this version of Ray Serve binds its replicas in another way; check what they listen on")
        return
    address = ray.util.get_node_ip_address()

    def bind(server: Any, wanted: str) -> int:
        port: int = original(server, wanted.replace("[::]", address))
        return port

    replica.add_port_to_grpc_server = bind
