"""The environment of this process and of all that it starts: places from the root on, loopback without a proxy."""

import os
import re
from collections.abc import Iterator, Mapping

from l2c_ray.errors import ConfigError
from l2c_ray.storage.places import absolute, require_lasting

WRITTEN = ("L2C_HOME", "L2C_STORAGE", "L2C_STUDY_STORAGE", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
"""Variables that name a folder, or an address that may be one of a file; what is written there has to last."""

READ = (
    "RAY_AUTH_TOKEN_PATH",
    "RAY_TMPDIR",
    "TMPDIR",
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "REQUESTS_CA_BUNDLE",
)
"""Variables that name a file or folder which need not last."""

# Without the brackets of a URL: httpx, and so OpenAI's client, breaks on "[::1]".
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)([^?]+)(.*)", re.DOTALL)
_FILE = re.compile(r"(file:)((?!//)[^?]+)(.*)", re.DOTALL)
# A mistyped address (http:host) is none of a file either: whoever connects to it says what is wrong with it.
_NO_FILES = re.compile(r":memory:|databricks(-uc)?|uc|\w[\w+.-]*:.*", re.DOTALL | re.ASCII)


def settle() -> None:
    """Changes the variables of this process to what `settled` says. Commands begin with it.

    Raises:
        ConfigError: one names a place that a job would lose.
    """
    os.environ.update(settled(os.environ))


def settled(variables: Mapping[str, str]) -> dict[str, str]:
    """Variables that have to change, because processes in other folders inherit them, or because of a proxy.

    Raises:
        ConfigError: one names a relative place to write to, and this is a job; or it can be no path.
    """
    return {**dict(_places(variables)), **without_proxy(variables)}


def without_proxy(variables: Mapping[str, str]) -> dict[str, str]:
    """Values of `NO_PROXY` and `no_proxy` by which servers on this machine are reached directly."""
    lower, upper = variables.get("no_proxy", ""), variables.get("NO_PROXY", "")
    # Where both are there most libraries read the one in small letters; where one is, it becomes both.
    given = {"no_proxy": lower or upper, "NO_PROXY": upper or lower}
    return {name: _with_loopback(hosts) for name, hosts in given.items()}


def _with_loopback(hosts: str) -> str:
    if hosts.strip() == "*":
        return hosts
    named = [host.strip() for host in hosts.split(",") if host.strip()]
    return ",".join(dict.fromkeys([*named, *_LOOPBACK]))


def _places(variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in (*WRITTEN, *READ):
        before, path, after = _around_the_path(variables.get(name, ""))
        if not path:
            continue
        try:
            if name in WRITTEN:
                require_lasting(f"{name}={before}{path}", path, variables)
            yield name, f"{before}{absolute(path)}{after}"
        except ValueError as error:
            raise ConfigError(name, str(error), "correct or unset it") from error


def _around_the_path(value: str) -> tuple[str, str, str]:
    """The text before a path in the value, the path, and the text after it; no path where the value names no file."""
    match = _SQLITE.fullmatch(value) or _FILE.fullmatch(value)
    before, path, after = match.groups() if match else ("", value, "")
    return before, "" if _NO_FILES.fullmatch(path) else path, after
