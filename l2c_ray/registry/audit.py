"""Records of moves of aliases, kept as tags of the registered model."""

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
"""Variable with the author of moves, for machines whose user says nothing, as in CI."""

_MOVE = "l2c.move."
_NUMBER = re.compile(r"\d{6,12}", re.ASCII)
_MOST_MOVES = 10**12 - 1
_MOST_OF_A_NAME = 100
"""Length limit of an author in characters."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class AliasMove:
    """One move of an alias."""

    number: int
    """Counted from 1 over all aliases of a registered model."""
    alias: str
    before: int | None
    """Version that had the alias; None for no version."""
    after: int | None
    """Version that has it from then on; None if it was removed."""
    who: str
    when: str
    """UTC, ISO 8601."""
    why: str
    rollback: bool = False
    """Whether the move took another one back."""

    @property
    def tag(self) -> tuple[str, str]:
        """Key and value of the tag."""
        content = {name: value for name, value in asdict(self).items() if name != "number"}
        return _key(self.number), json.dumps(content, ensure_ascii=False)


_CONTENT: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
_RECORD = TypeAdapter(AliasMove)


def moves_of(model: RegisteredModel) -> list[AliasMove]:
    """All recorded moves of the model's aliases, the oldest first."""
    moves = readable(model.name, model.tags, _MOVE, _move)
    return sorted(moves.values(), key=lambda move: move.number)


def next_number(model: RegisteredModel) -> int:
    """Number of the next move: above all recorded ones that leave room, and free of any tag."""
    recorded = [0, *(move.number for move in moves_of(model))]
    above = (number for last in reversed(recorded) for number in range(last + 1, _MOST_MOVES + 1))
    return next(number for number in above if _key(number) not in model.tags)


def _key(number: int) -> str:
    return f"{_MOVE}{number:06d}"


def _move(number: str, value: str) -> AliasMove:
    """The move of a record; raises ValueError if it is damaged."""
    if not _NUMBER.fullmatch(number):
        raise ValueError("it has no number")
    return _RECORD.validate_json(json.dumps(_CONTENT.validate_json(value) | {"number": int(number)}))


def withdrawn(moves: Sequence[AliasMove]) -> dict[str, set[int]]:
    """Versions by alias that were rolled back from it and have not got it since.

    No rule gives them the alias again; a user who names the version may.
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
    """Author of a move: `$L2C_WHO`, or user@host."""
    if given := os.environ.get(WHO_VARIABLE):
        return given[:_MOST_OF_A_NAME]
    return f"{getpass.getuser()}@{socket.gethostname()}"


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
