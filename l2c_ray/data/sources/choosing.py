"""Which files and members of a source are read, by one rule for all sources, and as what the others are counted."""

import re
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import PurePosixPath

from l2c_ray.errors import ConfigError, StorageError
from l2c_ray.storage.trees import Entry, FileTree, compiled_glob

_HIDDEN = re.compile(r"\..*|__MACOSX|__.*__(\..*)?|_temporary|_delta_log", re.DOTALL)
"""Names of what systems and tools leave beside data: .DS_Store, ._1.png, __info__.json, and unfinished tables."""

_SPLIT = re.compile(r"(?<![a-z])(?:(train)(?:ing)?|(val)(?:id(?:ation)?)?|(dev)|(test)(?:ing)?)(?![a-z])")
"""Words by which the files of a data set say to which of its splits they belong."""

_PLAIN_SUFFIX = re.compile(r"[\w.]{1,12}", re.ASCII)


def choose(
    tree: FileTree, entries: Iterable[Entry], suffixes: Container[str], pattern: str | None, passed_over: Counter[str]
) -> dict[str, int]:
    """Sizes of the files that are read, by their names and in the order of the entries, which are the tree's.

    Args:
        suffixes: of the files that are read, in small letters and without a dot.
        pattern: a glob for the names of those that are chosen; all are without it.
        passed_over: gets how many others were chosen, by their kind.

    Raises:
        ConfigError: the pattern chooses nothing that is read.
        StorageError: the name of a file cannot be written down.
    """
    chosen = compiled_glob(pattern or "**")
    sizes: dict[str, int] = {}
    for entry in entries:
        if entry.kind == "folder" or not chosen.match(entry.name):
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
    """As what a file or member is counted that is not read; None for one that is."""
    if is_hidden(name):
        return "hidden"
    if suffix.lower() in suffixes:
        return None
    return f".{suffix.lower()}" if _PLAIN_SUFFIX.fullmatch(suffix) else "of no usual suffix"


def is_hidden(name: str) -> bool:
    """Whether it, or a folder that it is in, has such a name as systems and tools give to what is no data."""
    return any(map(_HIDDEN.fullmatch, name.split("/")))


def require_one_split(address: str, names: Iterable[str], remedy: str) -> None:
    """Nothing, if the names do not belong to several splits of a data set.

    Raises:
        StorageError: they do; names one of each of two.
    """
    found: dict[int, str] = {}
    for name in names:
        match = _SPLIT.search(name.lower())
        if match and match.lastindex:
            found.setdefault(match.lastindex, name)
        if len(found) > 1:
            first, second = found.values()
            raise StorageError(address, f"has more than one split of a data set, {first} and {second}", remedy)


def _require_text(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        shown = path.encode(errors="backslashreplace").decode()
        raise StorageError(shown, "has a name that is not UTF-8", "rename it") from error
