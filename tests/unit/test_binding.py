"""Only Ray Serve itself binds servers, so its function is replaced by one that notes what it is asked for."""

import logging
from collections.abc import Callable

import pytest
import ray
from ray.serve._private import replica

from l2c_ray.serving.binding import UnsupportedRayError, bind_to_node_address

NodeAddress = Callable[[str], None]


@pytest.fixture
def node_address(monkeypatch: pytest.MonkeyPatch) -> NodeAddress:
    return lambda address: monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)


@pytest.mark.parametrize(
    ("address", "wanted", "bound"),
    [
        ("127.0.0.1", "[::]:0", "127.0.0.1:0"),
        ("127.0.0.1", "0.0.0.0:7000", "127.0.0.1:7000"),
        ("10.0.0.7", "[::]:0", "10.0.0.7:0"),
        ("fd00::7", "[::]:0", "[fd00::7]:0"),
    ],
)
def test_replica_listens_on_its_nodes_address(
    monkeypatch: pytest.MonkeyPatch, node_address: NodeAddress, address: str, wanted: str, bound: str
) -> None:
    asked: list[str] = []

    def bind(server: object, where: str) -> int:
        asked.append(where)
        return 4711

    monkeypatch.setattr(replica, "add_port_to_grpc_server", bind)
    node_address(address)
    bind_to_node_address()
    assert replica.add_port_to_grpc_server(object(), wanted) == 4711
    assert asked == [bound]


def test_installed_ray_has_the_function(monkeypatch: pytest.MonkeyPatch, node_address: NodeAddress) -> None:
    original = replica.add_port_to_grpc_server
    monkeypatch.setattr(replica, "add_port_to_grpc_server", original)
    node_address("127.0.0.1")
    bind_to_node_address()
    assert replica.add_port_to_grpc_server is not original


def test_other_ray_is_refused_on_loopback_and_told_elsewhere(
    monkeypatch: pytest.MonkeyPatch, node_address: NodeAddress, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(replica, "add_port_to_grpc_server")
    node_address("127.0.0.1")
    with pytest.raises(UnsupportedRayError, match=ray.__version__):
        bind_to_node_address()
    node_address("10.0.0.7")
    with caplog.at_level(logging.WARNING):
        bind_to_node_address()
    assert ray.__version__ in caplog.text
