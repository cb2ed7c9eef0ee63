"""What every source of images offers: a list of parts, and the images of a part one after the other."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from l2c_ray.data.sources.choosing import choose, require_one_split
from l2c_ray.errors import StorageError
from l2c_ray.storage.trees import Entry, FileTree

MOST_IMAGE_BYTES = 64 << 20
"""Size limit of an image's file; the largest of ImageNet has 15 MB."""


class Example(NamedTuple):
    """An image as it is kept."""

    name: str
    """Which one of the source it is; no other has it."""
    content: bytes
    """Of the file, which may be broken."""
    label: int


@dataclass(frozen=True)
class Part:
    """Images that belong together, some hundreds of them; small enough to be sent to whoever reads them."""

    number: int
    files: tuple[str, ...]
    sizes: tuple[int, ...]
    """Of every file, in bytes."""
    labels: tuple[int, ...] = ()
    """Of every file, where a file is one image."""
    rows: tuple[int, int] = (0, 0)
    """The first and the end, where a file is a table."""


class ImageFiles(ABC):
    """A source of images. Both methods raise a `StorageError` that names what cannot be read or does not fit."""

    suffixes: frozenset[str]
    """Suffixes of the files that are read, in lower case, without the dot."""

    class_depth = 0
    """How many folders, counted from the source's own, are named after classes."""

    def __init__(self, tree: FileTree, pattern: str | None) -> None:
        """Nothing is read yet.

        Args:
            pattern: a glob for the names of the files to read; all that can be are without it.
        """
        self._tree = tree
        self._pattern = pattern
        self.passed_over: Counter[str] = Counter()
        """Files and members that were come upon and are no images, by their kind."""

    @abstractmethod
    def parts(self) -> list[Part]:
        """All of it, the same parts whenever it is asked and nothing has changed; at least one.

        Raises:
            ConfigError: `pattern` chooses nothing.
        """

    @abstractmethod
    def read(self, part: Part) -> Iterator[Example]:
        """The images of a part, always in the same order."""

    def _choose(self, entries: Sequence[Entry]) -> dict[str, int]:
        """Sizes of the files to read by their names; they belong to one split, unless `pattern` chose them."""
        self.passed_over.clear()
        sizes = choose(self._tree, entries, self.suffixes, self._pattern, self.passed_over)
        if not self._pattern:
            remedy = "choose with source.files, as in '**/train*', or '**' for all"
            require_one_split(self._tree.address, sizes, remedy, self.class_depth)
        return sizes

    def _nothing(self, wanted: str) -> StorageError:
        """The error of a source without an image."""
        there = told(self.passed_over)
        problem = f"has no {wanted}" + (f", but {there}" if there else "")
        return StorageError(self._tree.address, problem, "check source.images and source.kind")


def fingerprint(parts: Sequence[Part]) -> str:
    """A hash of what the parts are made of, by name and size."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode())
    return digest.hexdigest()


def require_label(given: object, classes: int, name: str) -> int:
    """The label of the image `name`.

    Raises:
        StorageError: it is none, or out of range.
    """
    if not isinstance(given, int) or not 0 <= given < classes:
        problem = f"has the label {given!r}, which is none of 0..{classes - 1}"
        raise StorageError(name, problem, "correct it, or set source.classes")
    return given


def told(passed_over: Mapping[str, int], most: int = 8) -> str:
    """How many were passed over, by kind, the most frequent first."""
    common = Counter(passed_over).most_common()
    others = sum(count for _, count in common[most:])
    shown = [f"{count} {kind}" for kind, count in common[:most]]
    return ", ".join([*shown, f"{others} others"] if others else shown)
