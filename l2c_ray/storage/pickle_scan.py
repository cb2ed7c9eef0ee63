"""Looks a pickle over by its opcodes, before anything is built of it.

Torch's restricted unpickler calls only what it knows, but that as often and with as much as a pickle says: a few bytes
may copy one long string a thousand times, or make a key that takes centuries to hash.
"""

import pickletools
import re
from typing import IO, Any, NamedTuple

MOST_BYTES = 16 << 20
"""Size limit of the pickles in a file, tensors' numbers apart: 100,000 tensors have as many."""

_MOST_OPCODES = 1_000_000
"""Some of one byte make an object of two hundred."""
_MOST_IN_A_TUPLE = 1000
"""Values, those of tuples within it included. Python's own random state has 628."""

_KNOWN = re.compile(
    r"collections OrderedDict|_codecs encode|argparse Namespace"
    r"|torch (Size|device|bool|[bq]?u?(int|float)\d+\w*|complex\d+)"
    r"|torch(\.(cuda|storage))? \w+Storage|torch\.(serialization _get_layout|nn\.parameter Parameter)"
    r"|torch\._utils _rebuild_(parameter|tensor|tensor_v2|tensor_v3|sparse_tensor|meta_tensor_no_storage)"
    r"|numpy(\._?core\.multiarray (scalar|_reconstruct)| dtype| ndarray)"
    r"|pathlib(\._local)? (Pure)?(Posix|Windows)?Path"
)
"""Names, each as `module name`, that neither take memory for nothing nor hide what a tensor is."""


class UnwantedPickleError(Exception):
    """A pickle asks for more than weights need; the text says for what."""


class _Sketch(NamedTuple):
    """A value as far as the scan remembers it."""

    values: int = 1
    """In a tuple, those of tuples within it included: to hash it takes as long, and as deep a stack."""
    characters: int = 0
    """Total length of the strings in it."""
    text: str = ""
    """A string, or a name that was imported; of a tuple, that of its last value."""


_MARK = _Sketch()
_NUMBER = _Sketch()
_OBJECT = _Sketch(text="object")
"""It may have grown to any size since it was seen."""
_SEEN_OBJECT = _Sketch(text="object")
"""One that something else holds too."""

_NUMBERS = (pickletools.pyint, pickletools.pyfloat, pickletools.pybool, pickletools.pynone)


def scan(file: IO[bytes]) -> None:
    """Reads one pickle to its end.

    Raises:
        UnwantedPickleError: it asks for a name that no weights need, or for far more than it weighs.
        LookupError, ValueError: it is damaged.
    """
    scanner = _Scanner()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count == _MOST_OPCODES:
            raise UnwantedPickleError(f"it takes more than {_MOST_OPCODES} steps to build")
        scanner.follow(opcode, argument)


class _Scanner:
    def __init__(self) -> None:
        self._stack: list[_Sketch] = []
        self._memo: dict[int, _Sketch] = {}
        self._copied = 0

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Does with sketches what the opcode does with values."""
        taken = self._take(opcode)
        match opcode.name:
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                found = self._memo[argument]
                self._stack.append(_SEEN_OBJECT if found is _OBJECT else found)
            case "MARK":
                self._stack.append(_MARK)
            case "GLOBAL":
                self._stack.append(_imported(argument))
            case "EMPTY_TUPLE" | "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._stack.append(_tuple_of(taken))
            case "REDUCE" | "NEWOBJ":
                self._call(*taken)
                self._stack.append(_OBJECT)
            case "BUILD" if taken[1] is _SEEN_OBJECT:
                raise UnwantedPickleError("it copies what it holds again and again")
            case _ if isinstance(argument, str):
                self._stack.append(_Sketch(characters=len(argument), text=argument))
            case _:
                self._stack += [_NUMBER if kind in _NUMBERS else _OBJECT for kind in opcode.stack_after]

    def _take(self, opcode: pickletools.OpcodeInfo) -> list[_Sketch]:
        """The values that the opcode takes from the stack, its mark left out."""
        wanted, marked = opcode.stack_before, []
        if pickletools.markobject in wanted:
            while (top := self._stack.pop()) is not _MARK:
                marked.append(top)
            wanted = wanted[: wanted.index(pickletools.markobject)]
        return [self._stack.pop() for _ in wanted][::-1] + marked[::-1]

    def _call(self, function: _Sketch, arguments: _Sketch) -> None:
        self._copied += arguments.values + arguments.characters
        if self._copied > MOST_BYTES:
            raise UnwantedPickleError("it copies what it holds again and again")
        if function.text == "_codecs encode" and arguments.text != "latin1":
            # The one that bytes are written with; others take time that grows with the square of the text.
            raise UnwantedPickleError("it asks for a text encoding")
        if function.text in ("collections OrderedDict", "torch Size") and arguments.text == _OBJECT.text:
            raise UnwantedPickleError("it copies a list")


def _imported(name: str) -> _Sketch:
    if not _KNOWN.fullmatch(name):
        raise UnwantedPickleError(f"it asks for {name.replace(' ', '.')}")
    return _Sketch(text=name)


def _tuple_of(values: list[_Sketch]) -> _Sketch:
    count = 1 + sum(value.values for value in values)
    if count > _MOST_IN_A_TUPLE:
        raise UnwantedPickleError(f"it has a tuple of more than {_MOST_IN_A_TUPLE} values")
    return _Sketch(count, sum(value.characters for value in values), values[-1].text if values else "")
