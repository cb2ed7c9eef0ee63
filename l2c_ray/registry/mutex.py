"""A mutex in the registry: one process at a time changes a registered model's aliases.

MLflow has no compare-and-set. To compare a tag, set it and read it again is not enough: the last writer wins, so two
processes that both compared first may both read their own value (a test shows it). But names of registered models are
unique, so the process that creates `l2c-lock.NAME` holds the lock of NAME until it deletes it, on a database and over
REST alike.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from l2c_ray.errors import ConflictError
from l2c_ray.logs import logger
from l2c_ray.registry.audit import utc_now, who_am_i

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCK_PREFIX = "l2c-lock."
LEASE_SECONDS = 30.0
"""Longest time that a process holds the lock, which it does for a few calls of the registry, never to measure."""

_MOST_SECONDS = 10 * LEASE_SECONDS
_POLL_SECONDS = 0.2
_TOKEN = re.compile(r"[\w-]{1,64}", re.ASCII)

_log = logger(__name__)


class Held:
    """The lock while this process holds it."""

    def __init__(self, client: MlflowClient, lock: str, token: str, lease_seconds: float) -> None:
        self._client = client
        self._lock = lock
        self._token = token
        self._until = time.monotonic() + lease_seconds / 2

    def require(self) -> None:
        """Refuses a change after half of the lease, so that no other process can have broken the lock before it.

        Raises:
            ConflictError: this process was held up for too long.
        """
        if time.monotonic() > self._until:
            raise ConflictError(self._lock, "was held for too long by this process", "try again")

    def release(self) -> None:
        """Deletes the lock, unless another process holds it by now."""
        if _token(self._client, self._lock) == self._token:
            self._client.delete_registered_model(self._lock)


@contextmanager
def exclusive(client: MlflowClient, name: str, lease_seconds: float = LEASE_SECONDS) -> Iterator[Held]:
    """Holds the lock of the registered model `name`; waits while another process has it.

    A holder is taken for dead if its lock stays the same for a whole lease by the waiting process's clock; clocks of
    two machines are never compared. Its lock is broken by a rename to `l2c-lock.NAME.broken.TOKEN`: only one of several
    waiting processes finds that name free, and none can break the next holder's lock. The renamed model says who
    died; anybody may delete it.

    Raises:
        ConflictError: other processes held the lock all the time.
        MlflowException: the registry does not answer.
    """
    lock = LOCK_PREFIX + name
    token = uuid.uuid4().hex
    _acquire(client, lock, token, lease_seconds)
    held = Held(client, lock, token, lease_seconds)
    try:
        yield held
    finally:
        held.release()


def _acquire(client: MlflowClient, lock: str, token: str, lease_seconds: float) -> None:
    content = json.dumps({"token": token, "who": who_am_i(), "when": utc_now()})
    start = seen_since = time.monotonic()
    seen: str | None = None
    while not _create(client, lock, content):
        now = time.monotonic()
        if now - start > _MOST_SECONDS:
            raise ConflictError(lock, f"others held it for {_MOST_SECONDS:.0f} s", "try again later")
        holder = _token(client, lock)
        if holder != seen:
            seen, seen_since = holder, now
        elif holder is not None and now - seen_since > lease_seconds:
            _break(client, lock, holder)
        time.sleep(_POLL_SECONDS)


def _create(client: MlflowClient, lock: str, content: str) -> bool:
    """Whether this process created the lock; False if there is one already."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(lock, description=content)
    except MlflowException as error:
        # MLflow looks up the model that is in the way, which may be gone by then.
        if error.error_code in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
            return False
        raise
    return True


def _token(client: MlflowClient, lock: str) -> str | None:
    """Token of the lock's holder; None if there is no lock."""
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_registered_model(lock)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    try:
        token = json.loads(model.description or "")["token"]
    except (ValueError, RecursionError, KeyError, TypeError):
        token = None
    if isinstance(token, str) and _TOKEN.fullmatch(token):
        return token
    # A lock that was made by hand gets a unique name too, by which it can be broken.
    return f"unknown-{model.creation_timestamp}"


def _break(client: MlflowClient, lock: str, token: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.rename_registered_model(lock, f"{lock}.broken.{token}")
    except MlflowException as error:
        # Another process was quicker.
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
            raise
    else:
        _log.warning("%s was left behind by a process that died; it is %s.broken.%s now", lock, lock, token)
