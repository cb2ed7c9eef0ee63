"""A scan of a pickle's opcodes before anything is built of it.

Torch's restricted unpickler calls only allowed functions, but as often as a pickle says: a few bytes may copy one long
string a thousand times, or make a key that takes centuries to hash. No library checks for that.
"""

import pickletools
import re
from enum import Enum, auto
from typing import IO, Any, NamedTuple

# Torch has no public name for its list.
from torch._utils import IMPORT_MAPPING, NAME_MAPPING
from torch._weights_only_unpickler import _get_allowed_globals

MOST_BYTES = 16 << 20
"""Size limit of the pickles in a file, tensors' numbers apart: 100,000 tensors have as many."""

_MOST_OPCODES = 1_000_000
"""Opcode limit; one byte may make an object of two hundred."""
_MOST_HASHED = 100_000
"""Limit of the values of tuples that are used again, counted once for each use."""
_MOST_DEPTH = 500
"""Depth limit of nested tuples: Python hashes them without checking its stack."""

_PATHS = [f"{pure}{system}Path" for pure in ("", "Pure") for system in ("Posix", "Windows")] + ["Path", "PurePath"]
_NUMPY = [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")]
NEVER_MADE = (
    # The authors' files hold their training script's arguments.
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.ndarray",
    *_NUMPY,
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
)
"""Names that files hold beside torch's; each is read as a placeholder."""

_NOT_OF_WEIGHTS = re.compile(r"torch\._utils\._rebuild_(qtensor|nested_tensor|device_tensor_\w+|wrapper_subclass)")
"""Names allowed by torch that waste memory or hide the kind of a tensor."""
_NEVER_CALLED = re.compile(r"torch\.[\w.]*(Tensor|Storage)")
"""Classes that files only name; a call with a number would allocate as many bytes."""
_TAKES_A_COPY = {"builtins.bytearray", "builtins.set", "collections.Counter", "collections.OrderedDict", "torch.Size"}
_DECODES = {"_codecs.encode", "builtins.bytearray"}
_SETS_ATTRIBUTES = {"torch._tensor._rebuild_from_type_v2", "torch._utils._rebuild_parameter_with_state"}
"""Functions that copy their last argument, as the opcode BUILD does."""


class UnwantedPickleError(Exception):
    """A pickle asks for more than weights need; the message says for what."""


class _Kind(Enum):
    MARK = auto()
    NUMBER = auto()
    TEXT = auto()
    BYTES = auto()
    NAME = auto()
    TUPLE = auto()
    OBJECT = auto()
    """Mutable, so of any size by now."""
    SHARED_OBJECT = auto()
    """A mutable object that another value may hold too, so that it may be copied again."""


class _Sketch(NamedTuple):
    """The scan's record of a value: its kind and its size."""

    kind: _Kind
    values: int = 1
    """Number of values, nested tuples included; hashing takes time in proportion."""
    depth: int = 0
    """Depth of tuples within one another."""
    characters: int = 0
    """Total length of the strings in it."""
    text: str = ""
    """A string, or a name that was imported."""
    parts: tuple["_Sketch", ...] = ()
    """Values of a tuple."""


_MARK = _Sketch(_Kind.MARK)
_NUMBER = _Sketch(_Kind.NUMBER)
_OBJECT = _Sketch(_Kind.OBJECT)

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
        self._hashed = 0

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Applies the opcode to the sketches on the stack."""
        taken = self._take(opcode)
        match opcode.name:
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                self._stack.append(self._shared(self._memo[argument]))
            case "MARK":
                self._stack.append(_MARK)
            case "GLOBAL":
                self._stack.append(_imported(argument))
            case "EMPTY_TUPLE" | "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._stack.append(_tuple_of(taken))
            case "REDUCE" | "NEWOBJ":
                self._call(*taken)
                kind = _Kind.BYTES if taken[0].text == "_codecs.encode" else _Kind.SHARED_OBJECT
                self._stack.append(_Sketch(kind, values=taken[1].values, characters=taken[1].characters))
            case "APPEND" | "APPENDS" | "SETITEM" | "SETITEMS":
                self._stack.append(taken[0])
            case "BUILD":
                _require_own(taken[1])
                self._stack.append(taken[0])
            case _ if isinstance(argument, str):
                self._stack.append(_Sketch(_Kind.TEXT, characters=len(argument), text=argument))
            case _:
                self._stack += [_NUMBER if kind in _NUMBERS else _OBJECT for kind in opcode.stack_after]

    def _take(self, opcode: pickletools.OpcodeInfo) -> list[_Sketch]:
        """Values that the opcode takes from the stack, without its mark."""
        wanted, marked = opcode.stack_before, []
        if pickletools.markobject in wanted:
            while (top := self._stack.pop()).kind is not _Kind.MARK:
                marked.append(top)
            wanted = wanted[: wanted.index(pickletools.markobject)]
        return [self._stack.pop() for _ in wanted][::-1] + marked[::-1]

    def _shared(self, value: _Sketch) -> _Sketch:
        """The value, counted as used once more, possibly as a key that is hashed."""
        self._hashed += value.values - 1
        if self._hashed > _MOST_HASHED:
            raise UnwantedPickleError("it copies what it holds again and again")
        return _shared(value)

    def _count(self, copied: int) -> None:
        self._copied += copied
        if self._copied > MOST_BYTES:
            raise UnwantedPickleError("it copies what it holds again and again")

    def _call(self, function: _Sketch, arguments: _Sketch) -> None:
        name, given = function.text, arguments.parts
        if function.kind is not _Kind.NAME or arguments.kind is not _Kind.TUPLE or _NEVER_CALLED.fullmatch(name):
            raise UnwantedPickleError(f"it calls {name or 'a value'} as no file of weights does")
        self._count(arguments.values + arguments.characters)
        if name in _TAKES_A_COPY and any(part.kind is _Kind.SHARED_OBJECT for part in given):
            raise UnwantedPickleError("it copies what it holds again and again")
        if name in _DECODES and given and not (_is_latin(given) or (given[0].kind is _Kind.BYTES and len(given) == 1)):
            raise UnwantedPickleError("it asks for bytes of any length, or for a text encoding")
        if name in _SETS_ATTRIBUTES and given:
            _require_own(given[-1])
        if name == "torch._tensor._rebuild_from_type_v2":
            self._call(given[0], given[2])


def _shared(value: _Sketch) -> _Sketch:
    if value.kind is _Kind.TUPLE:
        return value._replace(parts=tuple(map(_shared, value.parts)))
    return value._replace(kind=_Kind.SHARED_OBJECT) if value.kind is _Kind.OBJECT else value


def _require_own(state: _Sketch) -> None:
    """Refuses attributes that another value holds too: they are copied, alone or as one of a pair."""
    for part in (state, *(state.parts if len(state.parts) == 2 else ())):
        if part.kind is _Kind.SHARED_OBJECT:
            raise UnwantedPickleError("it copies what it holds again and again")


def _is_latin(arguments: tuple[_Sketch, ...]) -> bool:
    """Whether they are text in Latin-1, the form of bytes; other encodings may take quadratic time."""
    return [part.kind for part in arguments] == [_Kind.TEXT] * 2 and arguments[1].text in ("latin1", "latin-1")


def _imported(argument: str) -> _Sketch:
    """The name as torch resolves it, with Python 2's names mapped to Python 3's."""
    module, _, own = argument.partition(" ")
    module, own = NAME_MAPPING.get((module, own), (IMPORT_MAPPING.get(module, module), own))
    name = f"{module}.{own}"
    if name not in NEVER_MADE and (name not in _get_allowed_globals() or _NOT_OF_WEIGHTS.fullmatch(name)):
        raise UnwantedPickleError(f"it asks for {name}")
    return _Sketch(_Kind.NAME, text=name)


def _tuple_of(parts: list[_Sketch]) -> _Sketch:
    depth = 1 + max((part.depth for part in parts), default=0)
    if depth > _MOST_DEPTH:
        raise UnwantedPickleError(f"it has tuples within tuples, more than {_MOST_DEPTH} deep")
    return _Sketch(
        _Kind.TUPLE,
        values=1 + sum(part.values for part in parts),
        depth=depth,
        characters=sum(part.characters for part in parts),
        parts=tuple(parts),
    )
