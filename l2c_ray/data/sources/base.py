"""What every source of images offers: a list of parts, and the images of a part one after the other."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from l2c_ray.errors import StorageError


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

    @abstractmethod
    def parts(self) -> list[Part]:
        """All of it, the same parts whenever it is asked and nothing has changed; at least one."""

    @abstractmethod
    def read(self, part: Part) -> Iterator[Example]:
        """The images of a part, always in the same order."""


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


def nothing_there(address: str, wanted: str) -> StorageError:
    """The error of a source without an image."""
    return StorageError(address, f"has no {wanted}", "check source.images and source.kind")
