"""Tars in webdataset's layout: consecutive members that differ only in their suffix are one image."""

import codecs
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from l2c_ray.data.sources.base import MOST_IMAGE_BYTES, Example, ImageFiles, Part, require_label
from l2c_ray.data.sources.choosing import kind_passed_over
from l2c_ray.data.sources.tars import Member, members
from l2c_ray.errors import StorageError
from l2c_ray.storage.trees import FileTree

_IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "bmp"})
_LABEL = "cls"
_READ = _IMAGES | {_LABEL}
_MOST_LABEL_BYTES = 32


class _File(NamedTuple):
    key: str
    suffix: str
    content: bytes


class TarImages(ImageFiles):
    """Images in tars, each of which is a part; their number is known only after reading."""

    suffixes = frozenset({"tar"})

    def __init__(self, tree: FileTree, pattern: str | None, classes: int) -> None:
        super().__init__(tree, pattern)
        self._classes = classes

    def parts(self) -> list[Part]:
        tars = self._choose(self._tree.entries(self._pattern))
        if not tars:
            raise self._nothing(".tar file")
        return [Part(number, (file,), (size,)) for number, (file, size) in enumerate(tars.items())]

    def read(self, part: Part) -> Iterator[Example]:
        (tar,), (size,) = part.files, part.sizes
        seen: set[str] = set()
        for key, files in groupby(self._files(tar, size), key=lambda file: file.key):
            name = f"{tar}#{key}"
            if key in seen:
                raise StorageError(name, "is there twice", "give every image of a tar a name of its own")
            seen.add(key)
            content = _by_suffix(name, files)
            images = sorted(_IMAGES & content.keys())
            if len(images) != 1 or _LABEL not in content:
                problem = f"has {', '.join(sorted(content))}, not one picture and {_LABEL}"
                raise StorageError(name, problem, "give pairs such as x.jpg and x.cls")
            yield Example(name, content[images[0]], require_label(_number(content[_LABEL]), self._classes, name))

    def _files(self, tar: str, size: int) -> Iterator[_File]:
        """Pictures and labels in the order of the tar."""
        with self._tree.open(tar) as stream:
            for member in members(stream, size):
                name = _plain(member.name)
                folder, slash, base = name.rpartition("/")
                key, _, suffix = base.partition(".")
                kind = kind_passed_over(name, suffix, _READ)
                if kind or member.kind != "file":
                    self.passed_over[kind or member.kind] += 1
                elif ".." in name.split("/"):
                    problem = "has a name that leads out of its folder"
                    raise StorageError(f"{tar}#{member.name}", problem, "pack the tar from inside its folder")
                else:
                    yield _File(folder + slash + key, suffix.lower(), _content(tar, member, suffix.lower()))


def _plain(name: str) -> str:
    """The name without redundant `./` and `//`."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _content(tar: str, member: Member, suffix: str) -> bytes:
    most = _MOST_LABEL_BYTES if suffix == _LABEL else MOST_IMAGE_BYTES
    if member.size > most:
        problem = f"has {member.size} bytes, and a {'label' if suffix == _LABEL else 'picture'} has {most} at most"
        raise StorageError(f"{tar}#{member.name}", problem, "take it away")
    return member.read()


def _by_suffix(name: str, files: Iterator[_File]) -> dict[str, bytes]:
    content: dict[str, bytes] = {}
    for file in files:
        if file.suffix in content:
            raise StorageError(name, f"has {file.suffix} twice", "give every image of a tar a name of its own")
        content[file.suffix] = file.content
    return content


def _number(content: bytes) -> int | str:
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = content.decode(encoding, errors="replace").strip()
    return int(text) if text.isdecimal() else text
