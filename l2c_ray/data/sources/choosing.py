"""The rule by which all sources choose files and members to read, and count the others by kind."""

import re
from collections import Counter
from collections.abc import Collection, Container, Iterable
from functools import reduce
from itertools import chain
from pathlib import PurePosixPath

from l2c_ray.errors import ConfigError, StorageError
from l2c_ray.storage.trees import Entry, FileTree, compiled_glob, is_hidden

_SPLIT = re.compile(
    r"(?<![a-z])(?:(trainval)|(train)(?:ing)?|(val)(?:id(?:at(?:e|ion))?)?|(dev)|(test)(?:ing)?|(eval)(?:uat(?:e|ion))?"
    r"|(h[oe]ld)[-_. ]?out)(?:[-_. ]?(?:set|data|split))?(?![a-z])"
)
"""Words in names of files that say to which split of a data set they belong."""

_Words = tuple[tuple[str, ...], ...]
"""Split words of a path, for every part that has some."""

_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")

_PLAIN_SUFFIX = re.compile(r"[\w.]{1,12}", re.ASCII)


def choose(
    tree: FileTree, entries: Iterable[Entry], suffixes: Container[str], pattern: str | None, passed_over: Counter[str]
) -> dict[str, int]:
    """Sizes in bytes of the files to read, by name and in the order of the entries.

    Args:
        suffixes: suffixes of the files to read, in lower case and without a dot.
        pattern: a glob for the names of the chosen files; None for all.
        passed_over: receives the counts of chosen files that are not read, by kind.

    Raises:
        ConfigError: the pattern chooses no file to read.
        StorageError: the name of a file is not UTF-8.
    """
    chosen = compiled_glob(pattern or "**")
    sizes: dict[str, int] = {}
    for entry in entries:
        if not chosen.match(entry.name) or (entry.kind == "folder" and not is_hidden(entry.name)):
            continue
        kind = kind_passed_over(entry.name, PurePosixPath(entry.name).suffix[1:], suffixes)
        if kind or entry.kind != "file":
            passed_over[kind or entry.kind] += 1
        else:
            _require_text(tree.path(entry.name))
            sizes[entry.name] = entry.size
    if pattern and not sizes:
        problem = f"{pattern} chooses nothing that is read below {tree.address}"
        raise ConfigError("source.files", problem, "** stands for any folders, as in **/train-*")
    return sizes


def kind_passed_over(name: str, suffix: str, suffixes: Container[str]) -> str | None:
    """Kind of a file or member that is passed over; None for one that is read."""
    if is_hidden(name):
        return "hidden"
    if suffix.lower() in suffixes:
        return None
    return f".{suffix.lower()}" if _PLAIN_SUFFIX.fullmatch(suffix) else "of no usual suffix"


def require_one_split(address: str, names: Collection[str], remedy: str, class_depth: int = 0) -> None:
    """Refuses names that belong to several splits of a data set.

    Args:
        class_depth: number of leading folders of each name that are ignored.

    Raises:
        StorageError: they belong to several; names one file of each of two.
    """
    paths = [name.split("/")[class_depth:] for name in names]
    # Such as a folder around all of them, which may be called train_val.
    shared = reduce(set.intersection, map(set, paths)) if paths else set()
    first_of: dict[_Words, str] = {}
    for name, path in zip(names, paths, strict=True):
        first_of.setdefault(_words(path, shared), name)
    counts = [Counter(chain.from_iterable(words)) for words in first_of]
    common = reduce(Counter.__and__, counts, counts[0] if counts else Counter())
    found: dict[str, str] = {}
    for (words, name), count in zip(first_of.items(), counts, strict=True):
        split = _split(words, count - common)
        if split:
            found.setdefault(split, name)
        if len(found) > 1:
            first, second = found.values()
            raise StorageError(address, f"has more than one split of a data set, {first} and {second}", remedy)


def split_words(part: str) -> tuple[str, ...]:
    """Names of splits in a part of a path, repeated as they are there."""
    return tuple(match[match.lastindex or 0] for match in _SPLIT.finditer(_CAMEL_CASE.sub("_", part).lower()))


def _words(path: Iterable[str], shared: Container[str]) -> _Words:
    return tuple(words for part in path if part not in shared and (words := split_words(part)))


def _split(words: _Words, own: Counter[str]) -> str | None:
    """The split of a file: the only one in `own`, or else the only one in the last part that names any."""
    for named in (set(own), set(words[-1] if words else ())):
        if len(named) == 1:
            return named.pop()
    return None


def _require_text(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        shown = path.encode(errors="backslashreplace").decode()
        raise StorageError(shown, "has a name that is not UTF-8", "rename it") from error
