"""Reading TOML at a cost that its size bounds."""

import re
import tomllib
from typing import Any

MOST_PARTS = 32
"""Between the dots of one key; the keys of the configs here have five at most."""

_PART = r"""(?:[\w-]++|'[^'\n]*+'|"(?:[^"\\\n]|\\[^\n])*+")"""
"""Part of a key: bare, or a whole string, which may hold dots and all that ends a key."""
_DEEP = re.compile(rf"(?:\.[ \t]*+{_PART}[ \t]*+){{{MOST_PARTS}}}")


def parse_toml(text: str) -> dict[str, Any]:
    """The tables in the text.

    Raises:
        ValueError: it is not TOML (then a TOMLDecodeError), or holds what Python cannot read.
        RecursionError: it is nested too deeply.
    """
    # The time and memory that tomllib takes for a key grow with the square of its parts.
    if _DEEP.search(text):
        raise ValueError(f"a key has more than {MOST_PARTS} parts")
    return tomllib.loads(text)
