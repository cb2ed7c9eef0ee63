"""Records in tags of the registry, which anybody may write: damaged ones are logged once and skipped."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeVar

from pydantic import ValidationError

from l2c_ray.logs import logger

_MOST_NAMED = 1000
"""Damaged records that a process remembers, so that it logs each once."""
_MOST_OF_A_PROBLEM = 200

_Record = TypeVar("_Record")

_log = logger(__name__)


def readable(
    owner: str, tags: Mapping[str, str], prefix: str, parse: Callable[[str, str], _Record]
) -> dict[str, _Record]:
    """Records in the tags with this prefix, by the rest of their keys, sorted.

    Args:
        owner: name of the tags' owner, for the log.
        parse: makes a record of the rest of a key and the tag's value; raises ValueError if it is damaged.
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
