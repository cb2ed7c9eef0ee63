"""Files that somebody has damaged or built to do harm, for every reader of bytes from outside."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st

_EXAMPLES = int(os.environ.get("L2C_FUZZ_EXAMPLES", "100"))


def fuzzed(test: Callable[..., Any]) -> Any:
    """A test of a reader with as many damaged inputs as `L2C_FUZZ_EXAMPLES` says, the same ones in every run."""
    return pytest.mark.fuzz(settings(max_examples=_EXAMPLES)(test))


_ODD = (b"\x00", b"\xff", b"\xff" * 8, b"-1", b"9" * 400, b"[" * 2000, b'"', b"\n", b"\x1b[31m", b"\x00" * 512)
"""Bytes that trip readers: ends of strings, numbers that are too large, depth, control characters, empty blocks."""


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with up to four changes: bytes altered, cut out, written twice, put in, or the end cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        end = min(len(data), start + draw(st.integers(1, 64)))
        match draw(st.sampled_from(("flip", "cut", "double", "insert", "truncate"))):
            case "flip":
                data[start:end] = bytes(byte ^ draw(st.integers(1, 255)) for byte in data[start:end])
            case "cut":
                del data[start:end]
            case "double":
                data[start:start] = data[start:end]
            case "insert":
                data[start:start] = draw(st.sampled_from(_ODD))
            case "truncate":
                del data[start:]
    return bytes(data)
