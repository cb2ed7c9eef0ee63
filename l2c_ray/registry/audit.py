"""Who moves an alias, and when: what every move leaves behind as a tag of the registered model."""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel

WHO_VARIABLE = "L2C_WHO"
"""Says who it is where the machine's user does not, as in CI."""

_MOVE = "l2c.move."
_MOST_OF_A_NAME = 100
"""Characters, as a tag has no room for any number of them."""


@dataclass(frozen=True)
class AliasMove:
    """One move of an alias."""

    number: int
    """From 1 on, over all aliases of a registered model."""
    alias: str
    before: int | None
    """The version that had it; None where none had."""
    after: int | None
    """The version that has it from then on; None where it was taken away."""
    who: str
    when: str
    """UTC, ISO 8601."""
    why: str
    rollback: bool = False
    """It took a move back."""

    @property
    def tag(self) -> tuple[str, str]:
        """Key and value."""
        content = {name: value for name, value in asdict(self).items() if name != "number"}
        return f"{_MOVE}{self.number:06d}", json.dumps(content, ensure_ascii=False)

    @classmethod
    def of_tag(cls, key: str, value: str) -> Self:
        return cls(number=int(key.removeprefix(_MOVE)), **json.loads(value))


def moves_of(model: RegisteredModel) -> list[AliasMove]:
    """Every move of an alias of the model, the oldest first."""
    return [AliasMove.of_tag(key, value) for key, value in sorted(model.tags.items()) if key.startswith(_MOVE)]


def withdrawn(moves: Sequence[AliasMove]) -> dict[str, set[int]]:
    """By alias, the versions that were rolled back from it and have not got it again since.

    No rule gives them the alias again; somebody who names the version may.
    """
    found: dict[str, set[int]] = {}
    for move in moves:
        versions = found.setdefault(move.alias, set())
        if move.after is not None:
            versions.discard(move.after)
        if move.rollback and move.before is not None:
            versions.add(move.before)
    return found


def who_am_i() -> str:
    """`$L2C_WHO`, or user@host."""
    if given := os.environ.get(WHO_VARIABLE):
        return given[:_MOST_OF_A_NAME]
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        # A container may run under a number that has no name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
