"""A mutex in the registry: one process at a time changes a registered model's aliases.

MLflow has no compare-and-set, but no two registered models have one name. So whoever manages to create the model
`l2c-lock.NAME` holds the lock of NAME, on a database and over REST alike, and deletes it when done.
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
"""How long one holder may have the lock, which is held for a few calls of the registry and never while measuring."""

_MOST_SECONDS = 10 * LEASE_SECONDS
_POLL_SECONDS = 0.2
_TOKEN = re.compile(r"[\w-]{1,64}", re.ASCII)

_log = logger(__name__)


class Held:
    """A lock that this process has."""

    def __init__(self, client: MlflowClient, lock: str, token: str, lease_seconds: float) -> None:
        self._client = client
        self._lock = lock
        self._token = token
        self._until = time.monotonic() + lease_seconds / 2

    def require(self) -> None:
        """Call right before a change: refuses it when half of the lease is over, so that nobody can have broken it.

        Raises:
            ConflictError: this process was held up for too long.
        """
        if time.monotonic() > self._until:
            raise ConflictError(self._lock, "was held for too long by this process", "try again")

    def release(self) -> None:
        """Deletes the lock, unless it is another's by now."""
        if _token(self._client, self._lock) == self._token:
            self._client.delete_registered_model(self._lock)


@contextmanager
def exclusive(client: MlflowClient, name: str, lease_seconds: float = LEASE_SECONDS) -> Iterator[Held]:
    """Holds the lock of the registered model `name`; waits while another process has it.

    A holder that died is recognised by its lock, which stays the same for a whole lease of the waiting process's own
    clock; the clocks of two machines are never compared. Such a lock is broken by renaming it after its token: of
    several that want to break it only one finds that name free, and none of them can break the next one's lock.
    What is left, `l2c-lock.NAME.broken.TOKEN`, tells who died; anybody may delete it.

    Raises:
        ConflictError: others had the lock all the time.
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
    """False where there is such a lock already."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(lock, description=content)
    except MlflowException as error:
        # MLflow looks up what is in the way, which may be gone by then.
        if error.error_code in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
            return False
        raise
    return True


def _token(client: MlflowClient, lock: str) -> str | None:
    """Whose the lock is; None where there is none."""
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
    # Made by hand. It is broken as any other, by a name that only this one has.
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
