"""Environment variables for this process and its children: absolute paths, and loopback without a proxy."""

import os
import re
from collections.abc import Iterator, Mapping

from l2c_ray.errors import ConfigError
from l2c_ray.storage.places import absolute, require_lasting

WRITTEN = ("L2C_HOME", "L2C_STORAGE", "L2C_STUDY_STORAGE", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
"""Variables that name a folder, or an address that may be that of a file; content written there must be kept."""

READ = (
    "RAY_AUTH_TOKEN_PATH",
    "RAY_TMPDIR",
    "TMPDIR",
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "REQUESTS_CA_BUNDLE",
)
"""Variables that name a file or folder that may be temporary."""

# Without the brackets of a URL: httpx, and so OpenAI's client, breaks on "[::1]".
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)([^?]+)(.*)", re.DOTALL)
_FILE = re.compile(r"(file:)((?!//)[^?]+)(.*)", re.DOTALL)
# A mistyped address (http:host) is not that of a file either; connecting to it raises the error that explains it.
_NO_FILES = re.compile(r":memory:|databricks(-uc)?|uc|\w[\w+.-]*:.*", re.DOTALL | re.ASCII)


def normalize() -> None:
    """Sets the variables of this process to their `normalized` values; the first thing that every command does.

    Raises:
        ConfigError: a variable names a place that a job would lose.
    """
    os.environ.update(normalized(os.environ))


def normalized(variables: Mapping[str, str]) -> dict[str, str]:
    """New values of the variables that name relative paths, which children in other folders inherit, and of `NO_PROXY`.

    Raises:
        ConfigError: a variable names a relative place to write to, and this is a job; or it is not a valid path.
    """
    return {**dict(_places(variables)), **without_proxy(variables)}


def without_proxy(variables: Mapping[str, str]) -> dict[str, str]:
    """Values of `NO_PROXY` and `no_proxy` that exclude loopback from the proxy."""
    lower, upper = variables.get("no_proxy", ""), variables.get("NO_PROXY", "")
    # Most libraries prefer the lower-case one; if only one is given it becomes both.
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
