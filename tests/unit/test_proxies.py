"""A proxy in the environment, where nobody listens, and servers of this machine, which are reached all the same."""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import boto3
import httpx
import pytest
import requests
from unit_factories import L2C

from l2c_ray.distributed import local_head
from l2c_ray.storage import environment
from l2c_ray.storage.opening import open_tree

PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


LIST = b"""<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>images/a.png</Key><Size>7</Size>
<LastModified>2026-01-05T00:00:00Z</LastModified></Contents></ListBucketResult>"""


class Server(BaseHTTPRequestHandler):
    """Answers a tracking server's clients with nothing, and all others with a list of S3."""

    def do_GET(self) -> None:
        asked_for_json = "mlflow" in self.path
        kind = "application/json" if asked_for_json else "application/xml"
        content = b"{}" if asked_for_json else LIST
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _dead_proxy(unused_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_proxy_stands_between_unless_told_otherwise(url: str) -> None:
    with pytest.raises(requests.exceptions.ProxyError):
        requests.get(url, timeout=5)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_requests_and_urllib_reach_servers_of_this_machine(url: str, host: str) -> None:
    environment.normalize()
    address = url.replace("127.0.0.1", host)
    assert requests.get(address, timeout=5).ok
    with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310 of this test
        assert answer.status == 200


@pytest.mark.parametrize("address", ["http://localhost:1", "https://127.0.0.1:1"])
def test_no_form_of_loopback_is_asked_for_by_a_proxy(address: str) -> None:
    environment.normalize()
    assert requests.utils.get_environ_proxies(address) == {}
    assert urllib.request.proxy_bypass(address.partition("//")[2])


def test_s3_of_this_machine_is_reached(url: str) -> None:
    environment.normalize()
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    found = boto3.session.Session().client("s3", endpoint_url=url, **keys).list_objects_v2(Bucket="bucket")
    assert [each["Key"] for each in found["Contents"]] == ["images/a.png"]
    variables = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    (entry,) = open_tree("s3://bucket/images", {**variables, "AWS_REGION": "us-east-1"}).entries()
    assert (entry.name, entry.size) == ("a.png", 7)


def test_commands_reach_a_tracking_server_of_this_machine(l2c: L2C, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    done = l2c("registry", "list", "--json")
    assert (done.code, done.out) == (0, "[]\n"), done.err


def test_head_clients_and_children_reach_servers_of_this_machine(url: str) -> None:
    code = f"import requests; print(requests.get({url!r}, timeout=5).status_code)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=local_head.environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout == "200\n", done.stderr


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "corp.example, localhost"}, "corp.example,localhost,127.0.0.1,::1"),
        ({"no_proxy": "corp.example"}, "corp.example,localhost,127.0.0.1,::1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_hosts_that_a_user_excepts_stay_so(given: dict[str, str], wanted: str) -> None:
    values = environment.without_proxy(given)
    assert values == {"no_proxy": wanted, "NO_PROXY": wanted}
    assert environment.without_proxy(values) == values


def test_settling_leaves_the_proxy_itself_as_it_is() -> None:
    before = {name: os.environ[name] for name in PROXIES}
    environment.normalize()
    assert {name: os.environ[name] for name in PROXIES} == before


def test_clients_of_httpx_take_what_is_exported(url: str) -> None:
    environment.normalize()
    assert httpx.get(url).status_code
