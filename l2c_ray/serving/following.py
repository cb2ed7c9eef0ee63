"""Follows an alias of the registry in its own thread, so that no request waits for the registry."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from l2c_ray.logs import logger
from l2c_ray.registry.versions import RegisteredVersion, load_schedule, resolve
from l2c_ray.schedule import Schedule

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logger(__name__)


@dataclass(frozen=True)
class Served:
    """A version and its schedule, replaced together."""

    version: RegisteredVersion
    schedule: Schedule


class AliasFollower:
    """The schedule that has an alias; `served` can be read from any thread."""

    def __init__(self, client: MlflowClient, name: str, alias: str, require_fit: Callable[[Schedule], None]) -> None:
        """Fetches the schedule that has the alias now.

        Args:
            name: of the registered model.
            require_fit: raises an error for a schedule that cannot be served.

        Raises:
            L2CError: the registry does not answer, no version has the alias, or its schedule does not fit.
        """
        self._client = client
        self._name = name
        self._alias = alias
        self._require_fit = require_fit
        self._trouble: tuple[int | None, type[Exception]] | None = None
        self._closed = threading.Event()
        self.served = self._take(resolve(client, name, alias))

    def start(self, every_seconds: float) -> None:
        """Looks the alias up periodically, until closed."""
        follow = threading.Thread(target=self._follow, args=(every_seconds,), name="alias-follower", daemon=True)
        follow.start()

    def close(self) -> None:
        """Stops after the lookup in progress, without waiting for it."""
        self._closed.set()

    def _follow(self, every_seconds: float) -> None:
        while not self._closed.wait(every_seconds):
            self._look()

    def _look(self) -> None:
        """Serves the version that now has the alias; if that fails, the present one stays."""
        wanted = None
        try:
            version = resolve(self._client, self._name, self._alias)
            wanted = version.version
            if (version.uri, version.sha256) != (self.served.version.uri, self.served.version.sha256):
                self.served = self._take(version)
        except Exception as error:
            # No error of the registry is a reason to stop serving or following.
            self._tell((wanted, type(error)), error)
        else:
            self._tell(None, None)

    def _take(self, version: RegisteredVersion) -> Served:
        schedule = load_schedule(version)
        self._require_fit(schedule)
        return Served(version, schedule)

    def _tell(self, trouble: tuple[int | None, type[Exception]] | None, error: Exception | None) -> None:
        """Logs a failure when it begins and when it ends, not at every lookup in between."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if error:
            _log.warning("still serving %s: %s", self.served.version.uri, error)
        else:
            _log.warning("following %s@%s again", self._name, self._alias)
