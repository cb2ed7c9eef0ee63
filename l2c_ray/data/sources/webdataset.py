"""Tars in the layout of webdataset: members that follow each other and differ in their suffix alone are an image."""

import tarfile
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple, Self

from l2c_ray.data.sources.base import Example, ImageFiles, Part, nothing_there, require_label
from l2c_ray.errors import StorageError
from l2c_ray.storage.trees import FileTree

_IMAGES = {"jpg", "jpeg", "png", "webp", "bmp"}
_LABEL = "cls"
_END = "end of file header"
"""As the standard library calls the zeros that every whole tar ends with."""


class _Member(NamedTuple):
    key: str
    suffix: str
    content: bytes


class _Header(tarfile.TarInfo):
    """Of a member. After the first, the standard library takes whatever is no header for the end of the tar."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if str(error) == _END:
                raise
            raise tarfile.ReadError(str(error)) from error


class TarImages(ImageFiles):
    """A part is a tar: how many images it has is known only when all of it has been read."""

    def __init__(self, tree: FileTree, classes: int) -> None:
        self._tree = tree
        self._classes = classes

    def parts(self) -> list[Part]:
        tars = [(file, size) for file, size in self._tree.files().items() if file.endswith(".tar")]
        if not tars:
            raise nothing_there(self._tree.address, ".tar file")
        return [Part(number, (file,), (size,)) for number, (file, size) in enumerate(tars)]

    def read(self, part: Part) -> Iterator[Example]:
        (file,) = part.files
        for key, members in groupby(self._members(file), key=lambda member: member.key):
            content = {member.suffix: member.content for member in members}
            name = f"{file}#{key}"
            images = _IMAGES & content.keys()
            if len(images) != 1 or _LABEL not in content:
                problem = f"has {', '.join(sorted(content)) or 'nothing'}, not one picture and {_LABEL}"
                raise StorageError(name, problem, "give pairs such as x.jpg and x.cls")
            yield Example(name, content[images.pop()], require_label(_number(content[_LABEL]), self._classes, name))

    def _members(self, file: str) -> Iterator[_Member]:
        try:
            with self._tree.stream(file) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isfile() else None
                    if content:
                        folder, slash, base = member.name.rpartition("/")
                        key, _, suffix = base.partition(".")
                        yield _Member(folder + slash + key, suffix.lower(), content.read())
        except tarfile.TarError as error:
            raise StorageError(f"{self._tree.address}/{file}", f"is no whole tar ({error})", "get it again") from error


def _number(content: bytes) -> int | str:
    text = content.decode(errors="replace").strip()
    return int(text) if text.isdecimal() else text
