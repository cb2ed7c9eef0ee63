"""The interface of image sources: a list of parts, and the images of each part in turn."""

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
    """An encoded image with its label."""

    name: str
    """Unique in the source."""
    content: bytes
    """Bytes of the image file, which may be broken."""
    label: int


@dataclass(frozen=True)
class Part:
    """Description of some hundred images that are read together; small enough to be sent to a worker."""

    number: int
    files: tuple[str, ...]
    sizes: tuple[int, ...]
    """Size of every file in bytes."""
    labels: tuple[int, ...] = ()
    """Label of every file, if a file is one image."""
    rows: tuple[int, int] = (0, 0)
    """First row and end (exclusive), if the file is a table."""


class ImageFiles(ABC):
    """A source of images; both methods raise a `StorageError` that names the file at fault."""

    suffixes: frozenset[str]
    """Suffixes of the files that are read, in lower case, without the dot."""

    class_depth = 0
    """Number of folder levels, from the top, that are named after classes."""

    def __init__(self, tree: FileTree, pattern: str | None) -> None:
        """Reads nothing yet.

        Args:
            pattern: a glob for the names of the files to read; None for all readable ones.
        """
        self._tree = tree
        self._pattern = pattern
        self.passed_over: Counter[str] = Counter()
        """Counts of files and members that are no images, by kind."""

    @abstractmethod
    def parts(self) -> list[Part]:
        """All parts, at least one; the same at every call unless files change.

        Raises:
            ConfigError: `pattern` chooses nothing.
        """

    @abstractmethod
    def read(self, part: Part) -> Iterator[Example]:
        """The images of a part, always in the same order."""

    def _choose(self, entries: Sequence[Entry]) -> dict[str, int]:
        """Sizes in bytes of the files to read, by name; all of one split, unless `pattern` chose them."""
        self.passed_over.clear()
        sizes = choose(self._tree, entries, self.suffixes, self._pattern, self.passed_over)
        if not self._pattern:
            remedy = "choose with source.files, as in '**/train*', or '**' for all"
            require_one_split(self._tree.address, sizes, remedy, self.class_depth)
        return sizes

    def _nothing(self, wanted: str) -> StorageError:
        """Error for a source without an image."""
        there = told(self.passed_over)
        problem = f"has no {wanted}" + (f", but {there}" if there else "")
        return StorageError(self._tree.address, problem, "check source.images and source.kind")


def fingerprint(parts: Sequence[Part]) -> str:
    """Hash of the names and sizes of all files in the parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode())
    return digest.hexdigest()


def require_label(given: object, classes: int, name: str) -> int:
    """The label, checked to be one of 0..classes-1; `name` is the image's.

    Raises:
        StorageError: it is not an integer, or out of range.
    """
    if not isinstance(given, int) or not 0 <= given < classes:
        problem = f"has the label {given!r}, which is none of 0..{classes - 1}"
        raise StorageError(name, problem, "correct it, or set source.classes")
    return given


def told(passed_over: Mapping[str, int], most: int = 8) -> str:
    """Text with the counts of passed-over files by kind, the most frequent first."""
    common = Counter(passed_over).most_common()
    others = sum(count for _, count in common[most:])
    shown = [f"{count} {kind}" for kind, count in common[:most]]
    return ", ".join([*shown, f"{others} others"] if others else shown)
