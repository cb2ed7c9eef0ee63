"""Refusal of requests for other host names, against DNS rebinding."""

import ipaddress
import re
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from l2c_ray.config.serving import host_name
from l2c_ray.serving.refusals import refusal

_PORT = re.compile(r":[0-9]*$", re.ASCII)


class KnownHosts:
    """ASGI middleware: lets requests through whose `Host` is a known name, or the very address that they came in at.

    Starlette's own TrustedHostMiddleware would answer in plain text, send some requests on to `www.`, and take one way
    of writing an address for another host than the next.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._knows(scope):
            message = "the Host header names no host of this service; the key `hosts` of its config lists them"
            await refusal(403, message, None, "host_not_allowed")(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1:
            return False
        name = host_name(_PORT.sub("", given[0]))
        return name is not None and (name in self._hosts or name == _address_of(scope))


def _address_of(scope: Scope) -> str | None:
    """The address that the request came in at; None where the server tells a name, which a client may have made up."""
    server = scope.get("server") or ("", None)
    try:
        return str(ipaddress.ip_address(server[0]))
    except ValueError:
        return None
