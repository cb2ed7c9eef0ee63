"""Where a schedule comes from: which code, run, study, data and seeds made it."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PREFIX = "lineage."
"""Of the tags that tell a version's lineage."""


@dataclass(frozen=True)
class Lineage:
    """What a version was made from, beside the commit, which its schedule has."""

    run: str
    """Name of the run that learned it."""
    run_id: str
    """The MLflow run."""
    config: Mapping[str, Any]
    """All settings of the job; plain values of JSON."""
    data: str
    """What was learned from, with a hash where it is data."""
    seeds: Mapping[str, int]
    """By what they were for."""
    study: str | None = None
    """Of the search that it is a trial of."""
    trial: int | None = None
    parent: str | None = None
    """SHA-256 of the schedule from which learning began, where it did not begin anew."""

    def tags(self, commit: str) -> dict[str, str]:
        """As tags of the version; what there is none of has no tag."""
        told = {
            "run": self.run,
            "data": self.data,
            "seeds": json.dumps(dict(self.seeds)),
            "commit": commit,
            "study": self.study,
            "trial": self.trial,
            "parent": self.parent,
        }
        return {PREFIX + name: str(value) for name, value in told.items() if value is not None}


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from or was installed from; None outside of git.

    It ends in `-dirty` where a tracked file differs from the commit. A submitted job runs from a copy without its
    git folder, so the checkout that pip installed is asked next.
    """
    checkout = Path(__file__).parents[2]
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
