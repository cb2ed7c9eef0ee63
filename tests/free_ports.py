"""Ports for the servers that tests start."""

import random
import socket
from contextlib import ExitStack, suppress

NOT_GIVEN_OUT = range(20000, 32000)
"""Below what a system gives to whoever asks for any port: a server may take a while to its own, and Ray asks a lot."""


def free_port() -> int:
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """On loopback, each another one."""
    ports: list[int] = []
    with ExitStack() as held:
        for port in random.SystemRandom().sample(NOT_GIVEN_OUT, len(NOT_GIVEN_OUT)):
            with suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise AssertionError(f"no {count} ports are free")
