"""Addresses in $RAY_ADDRESS at which there is no Ray: told before Ray is asked."""

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest
import ray
from ray.util import get_node_ip_address

from l2c_ray.distributed import cluster
from l2c_ray.errors import InvalidInputError, L2CError, UnreachableError


@pytest.fixture
def silent_server() -> Iterator[str]:
    with socket.create_server((get_node_ip_address(), 0)) as server:
        yield "{}:{}".format(*server.getsockname())


@pytest.fixture
def web_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer((get_node_ip_address(), 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield "{}:{}".format(*server.server_address)
        server.shutdown()
        thread.join()


def refusal(address: str, monkeypatch: pytest.MonkeyPatch) -> L2CError:
    monkeypatch.setenv("RAY_ADDRESS", address)
    # Its own attempts go on for minutes.
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.5)
    with pytest.raises(L2CError) as caught:
        cluster.connect()
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "address",
    ["foo", "foo:", ":6379", "foo:bar", "foo:99999", "a..b:6379", "http://127.0.0.1:8265", "ray://127.0.0.1:10001"],
)
def test_what_is_no_address_is_bad_input(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    error = refusal(address, monkeypatch)
    assert isinstance(error, InvalidInputError)
    assert error.subject == "RAY_ADDRESS"
    assert address in error.problem


def test_closed_port_is_told_with_where_ray_looks(monkeypatch: pytest.MonkeyPatch, unused_port: int) -> None:
    error = refusal(f"localhost:{unused_port}", monkeypatch)
    assert isinstance(error, UnreachableError)
    assert error.subject == f"localhost:{unused_port}"
    assert get_node_ip_address() in error.remedy


def test_unknown_host_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(refusal("name.invalid:6379", monkeypatch), UnreachableError)


def test_server_that_says_nothing_is_told(monkeypatch: pytest.MonkeyPatch, silent_server: str) -> None:
    error = refusal(silent_server, monkeypatch)
    assert isinstance(error, UnreachableError)
    assert error.subject == silent_server


def test_server_that_is_no_ray_head_is_told(monkeypatch: pytest.MonkeyPatch, web_server: str) -> None:
    assert "something else than a Ray head listens there" in refusal(web_server, monkeypatch).problem
