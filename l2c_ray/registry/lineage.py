"""Which code made a schedule."""

import json
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

import l2c_ray


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from or was installed from; None outside of git.

    It ends in `-dirty` where a tracked file differs from the commit. A submitted job runs from a copy without its
    git folder, so the checkout that pip installed is asked next.
    """
    checkout = Path(l2c_ray.__file__).parents[1]
    for folder in (checkout, _installed_from()):
        if folder and (commit := commit_of(folder)):
            return commit
    return None


def commit_of(checkout: Path) -> str | None:
    """The commit of a checkout of this package; None for any other folder.

    Git looks for a repository in every folder above, so one that happens to hold the folder has to track our code.
    """
    if _git(checkout, "ls-files", "--error-unmatch", "l2c_ray/__init__.py") is None:
        return None
    # Without any tag to describe by, this is the whole hash.
    return _git(checkout, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")


def _installed_from() -> Path | None:
    """The folder of a local install, as pip records it (PEP 610)."""
    try:
        record = distribution("l2c_ray").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    url = urlsplit(json.loads(record)["url"]) if record else None
    return Path(unquote(url.path)) if url and url.scheme == "file" else None


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
