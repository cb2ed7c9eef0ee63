"""Lineage of a schedule: the code, run, study, data and seeds that made it."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PREFIX = "lineage."
"""Prefix of the tags with a version's lineage."""


@dataclass(frozen=True)
class Lineage:
    """Origin of a version, except for the commit, which its schedule has."""

    run: str
    """Name of the run that learned the schedule."""
    run_id: str
    """Id of the MLflow run."""
    config: Mapping[str, Any]
    """All settings of the job, as plain JSON values."""
    data: str
    """Training data, with a hash unless it is noise."""
    seeds: Mapping[str, int]
    """Seeds by purpose."""
    study: str | None = None
    """Name of the study, if the run is a trial."""
    trial: int | None = None
    parent: str | None = None
    """SHA-256 of the schedule from which learning was warm-started; None for a cold start."""

    def tags(self, commit: str) -> dict[str, str]:
        """The lineage as tags of the version; missing values have none."""
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
    """Commit of the checkout that this package runs from or was installed from; None outside of git.

    It ends in `-dirty` if a tracked file differs. A submitted job runs from a copy without its git folder, so the
    checkout that pip installed is asked next.
    """
    checkout = Path(__file__).parents[2]
    for folder in (checkout, _installed_from()):
        if folder and (commit := commit_of(folder)):
            return commit
    return None


def commit_of(checkout: Path) -> str | None:
    """Commit of a checkout of this package; None for any other folder.

    Git searches all parent folders, so the repository that it finds must track this package.
    """
    if _git(checkout, "ls-files", "--error-unmatch", "l2c_ray/__init__.py") is None:
        return None
    # Without tags to describe by, this is the full hash.
    return _git(checkout, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")


def _installed_from() -> Path | None:
    """Folder of a local install, as pip records it (PEP 610)."""
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
