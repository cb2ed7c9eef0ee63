"""Which code made a schedule."""

import json
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

import l2c_ray


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from or was installed from; None outside of git.

    A submitted job runs from a copy without its git folder, so the checkout that pip installed is asked next.
    """
    package = Path(l2c_ray.__file__).parent
    for folder in (package, _installed_from()):
        if folder and (commit := _head(folder)):
            return commit
    return None


def _installed_from() -> Path | None:
    """The folder of a local install, as pip records it (PEP 610)."""
    try:
        record = distribution("l2c_ray").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    url = urlsplit(json.loads(record)["url"]) if record else None
    return Path(unquote(url.path)) if url and url.scheme == "file" else None


def _head(folder: Path) -> str | None:
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
