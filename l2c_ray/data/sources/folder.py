"""A folder with one subfolder for each class, as torchvision's ImageFolder and the DiT authors' scripts read it."""

from collections.abc import Iterator
from pathlib import PurePosixPath

import torch

from l2c_ray.data.seeding import draw_seed
from l2c_ray.data.sources.base import Example, ImageFiles, Part, nothing_there
from l2c_ray.errors import StorageError
from l2c_ray.storage.trees import FileTree

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
"""In capitals too; other files are left out."""


class ClassFolders(ImageFiles):
    """The images are shuffled, so that each part has some of many classes."""

    def __init__(self, tree: FileTree, classes: int, part_size: int, seed: int) -> None:
        self._tree = tree
        self._classes = classes
        self._part_size = part_size
        self._seed = seed

    def parts(self) -> list[Part]:
        label_of = self._labels(self._tree.folders())
        sizes = self._tree.files(deep=True)
        files = [file for file in sizes if PurePosixPath(file).suffix.lower() in _SUFFIXES]
        self._require_images_of(label_of, files)
        generator = torch.Generator().manual_seed(draw_seed(self._seed, "order", 0))
        shuffled = [files[index] for index in torch.randperm(len(files), generator=generator).tolist()]
        starts = range(0, len(shuffled), self._part_size)
        groups = [tuple(shuffled[start : start + self._part_size]) for start in starts]
        return [
            Part(
                number,
                group,
                tuple(sizes[file] for file in group),
                labels=tuple(label_of[_folder(file)] for file in group),
            )
            for number, group in enumerate(groups)
        ]

    def read(self, part: Part) -> Iterator[Example]:
        for file, label in zip(part.files, part.labels, strict=True):
            yield Example(file, self._tree.read(file), label)

    def _labels(self, folders: list[str]) -> dict[str, int]:
        """By the name of the subfolder: the number that it is, or its place among names that are none."""
        if not folders:
            raise nothing_there(self._tree.address, "subfolders, of which each class has one")
        numbers = all(folder.isdecimal() for folder in folders)
        labels = {folder: int(folder) if numbers else place for place, folder in enumerate(folders)}
        missing = set(range(self._classes)) - set(labels.values())
        if missing and numbers:
            raise self._misfit(f"has no subfolder for class {min(missing)}")
        if len(labels) != self._classes:
            raise self._misfit(f"has {len(labels)} subfolders, not {self._classes}")
        return labels

    def _require_images_of(self, label_of: dict[str, int], files: list[str]) -> None:
        folders = {_folder(file) for file in files}
        for file in files:
            if "/" not in file:
                raise StorageError(f"{self._tree.address}/{file}", "is in no subfolder of a class", "move it into one")
        for folder in label_of:
            if folder not in folders:
                raise nothing_there(f"{self._tree.address}/{folder}", "image")

    def _misfit(self, problem: str) -> StorageError:
        return StorageError(self._tree.address, problem, "add what is missing, or set source.classes")


def _folder(file: str) -> str:
    return file.partition("/")[0]
