"""Records kept as tags of the registry, which anybody may write: a damaged one is named once and passed over."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeVar

from pydantic import ValidationError

from l2c_ray.logs import logger

_MOST_NAMED = 1000
"""Damaged records that a process keeps in mind, so that it does not name one again."""
_MOST_OF_A_PROBLEM = 200

_Record = TypeVar("_Record")

_log = logger(__name__)


def readable(
    owner: str, tags: Mapping[str, str], prefix: str, parse: Callable[[str, str], _Record]
) -> dict[str, _Record]:
    """The records in the tags of this prefix, by the rest of their keys and in that order.

    Args:
        owner: what has the tags, for the log.
        parse: from the rest of a key and the tag's value; a ValueError means that the record is damaged.
    """
    found = {}
    for key, value in sorted(tags.items()):
        name = key.removeprefix(prefix)
        if name != key:
            try:
                found[name] = parse(name, value)
            except ValueError as error:
                _pass_over(owner, key, _problem(error))
    return found


@lru_cache(_MOST_NAMED)
def _pass_over(owner: str, key: str, problem: str) -> None:
    _log.warning("%s: its tag %s is no record of l2c_ray and is passed over (%s)", owner, key, problem)


def _problem(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join((*map(str, first["loc"]), first["msg"]))[:_MOST_OF_A_PROBLEM]
    return str(error)[:_MOST_OF_A_PROBLEM]
