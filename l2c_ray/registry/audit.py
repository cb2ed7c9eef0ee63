"""Who moves an alias, and when: what every move leaves behind as a tag of the registered model."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from l2c_ray.registry.records import readable

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel

WHO_VARIABLE = "L2C_WHO"
"""Says who it is where the machine's user does not, as in CI."""

_MOVE = "l2c.move."
_NUMBER = re.compile(r"\d{6,12}", re.ASCII)
_MOST_MOVES = 10**12 - 1
_MOST_OF_A_NAME = 100
"""Characters, as a tag has no room for any number of them."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
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
        return _key(self.number), json.dumps(content, ensure_ascii=False)


_CONTENT: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
_RECORD = TypeAdapter(AliasMove)


def moves_of(model: RegisteredModel) -> list[AliasMove]:
    """Every move of an alias of the model that was recorded as one, the oldest first."""
    moves = readable(model.name, model.tags, _MOVE, _move)
    return sorted(moves.values(), key=lambda move: move.number)


def next_number(model: RegisteredModel) -> int:
    """Number of the next move: above every recorded one's that leaves room for it, and of no tag that is there."""
    recorded = [0, *(move.number for move in moves_of(model))]
    above = (number for last in reversed(recorded) for number in range(last + 1, _MOST_MOVES + 1))
    return next(number for number in above if _key(number) not in model.tags)


def _key(number: int) -> str:
    return f"{_MOVE}{number:06d}"


def _move(number: str, value: str) -> AliasMove:
    """Raises ValueError for what is no record of a move."""
    if not _NUMBER.fullmatch(number):
        raise ValueError("it has no number")
    return _RECORD.validate_json(json.dumps(_CONTENT.validate_json(value) | {"number": int(number)}))


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
    return f"{getpass.getuser()}@{socket.gethostname()}"


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
