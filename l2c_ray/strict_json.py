"""JSON with one reading, one text and one hash, so that an artifact cannot change unnoticed."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from l2c_ray.errors import ScheduleError

_MOST_LISTS = 300_000
"""Limit of lists and objects: a forecast has one for each unit and step. Parsers take 200 bytes for `[]`."""
_MOST_VALUES = 1_000_000
_MOST_KEYS = 1000
"""Key limit of one object; pydantic takes a kilobyte to report each unknown key."""


def require_plain_json(text: str, source: str, remedy: str) -> None:
    """Refuses text with several readings, or that costs far more to read than any artifact.

    Readers differ in which of two values of one key they take, and a hash covers one of them.

    Raises:
        ScheduleError: the text is not JSON, repeats a key, or has too many values.
    """
    lists, values = text.count("[") + text.count("{"), text.count(",")
    if lists > _MOST_LISTS or values > _MOST_VALUES:
        problem = f"has about {max(lists, values)} lists or values, more than any schedule"
        raise ScheduleError(source, problem, remedy)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        key, count = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 0)
        if count > 1:
            raise ScheduleError(f"{key} in {source}", "is there more than once", remedy)
        if len(pairs) > _MOST_KEYS:
            raise ScheduleError(f"{key} in {source}", f"is one of {len(pairs)} keys of an object, too many", remedy)
        return dict(pairs)

    try:
        json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ScheduleError(source, f"is not JSON ({error})", remedy) from error


def without_infinities(content: Any, place: str = "") -> tuple[Any, dict[str, float]]:
    """The content with None for every non-finite number, which JSON cannot express, and those numbers by place.

    Args:
        content: plain values, as `json.dumps` takes them.
        place: name of the content, the first part of every place.
    """
    if isinstance(content, float) and not math.isfinite(content):
        return None, {place: content}
    if not isinstance(content, dict | list | tuple):
        return content, {}
    pairs = list(content.items() if isinstance(content, dict) else enumerate(content))
    found: dict[str, float] = {}
    parts = []
    for key, value in pairs:
        part, infinities = without_infinities(value, f"{place}.{key}" if place else str(key))
        parts.append(part)
        found |= infinities
    return (dict(zip((key for key, _ in pairs), parts, strict=True)) if isinstance(content, dict) else parts), found


def lenient(content: Any) -> str:
    """Indented JSON for readers of results, with null for every non-finite number."""
    return json.dumps(without_infinities(content)[0], indent=1, allow_nan=False)


def canonical(content: Mapping[str, Any]) -> str:
    """Canonical text of `content`: sorted keys, no spaces, finite numbers only."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 in hex of the canonical text of all fields but `sha256`, the place of the hash."""
    hashed = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(canonical(hashed).encode()).hexdigest()


def first_problem(error: ValidationError, source: str, remedy: str) -> ScheduleError:
    """Error for the first problem that pydantic found, naming the field in `source`."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ").removesuffix(" after validation")
    subject = f"{field} in {source}" if field else source
    return ScheduleError(subject, message[0].lower() + message[1:], remedy)
