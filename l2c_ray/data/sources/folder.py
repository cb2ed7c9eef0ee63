"""Class folders: one subfolder for each class, as torchvision's ImageFolder and the DiT authors' scripts read."""

import unicodedata
from collections.abc import Iterator

import torch

from l2c_ray.data.seeding import draw_seed
from l2c_ray.data.sources.base import MOST_IMAGE_BYTES, Example, ImageFiles, Part
from l2c_ray.data.sources.choosing import require_one_split, split_words
from l2c_ray.errors import StorageError
from l2c_ray.storage.trees import FileTree, is_hidden


class ClassFolders(ImageFiles):
    """Images in class folders, shuffled so that each part has some of many classes."""

    suffixes = frozenset({"jpg", "jpeg", "png", "webp", "bmp"})
    class_depth = 1

    def __init__(self, tree: FileTree, pattern: str | None, classes: int, part_size: int, seed: int) -> None:
        super().__init__(tree, pattern)
        self._classes = classes
        self._part_size = part_size
        self._seed = seed

    def parts(self) -> list[Part]:
        entries = self._tree.entries(self._pattern)
        folders = [each.name for each in entries if each.kind == "folder" and "/" not in each.name]
        label_of = self._labels([folder for folder in folders if not is_hidden(folder)])
        sizes = self._choose(entries)
        files = list(sizes)
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
            yield Example(file, self._tree.read(file, MOST_IMAGE_BYTES), label)

    def _labels(self, folders: list[str]) -> dict[str, int]:
        """Labels by name of the subfolder: the number that it is, or its place among names that are not numbers."""
        if not folders:
            raise self._nothing("subfolders, of which each class has one")
        self._require_classes(folders)
        numbers = folders[0].isdecimal()
        labels = {folder: int(folder) if numbers else place for place, folder in enumerate(folders)}
        missing = set(range(self._classes)) - set(labels.values())
        if missing and numbers:
            raise self._misfit(f"has no subfolder for class {min(missing)}")
        if len(labels) != self._classes:
            raise self._misfit(f"has {len(labels)} subfolders, not {self._classes}")
        return labels

    def _require_classes(self, folders: list[str]) -> None:
        """Refuses subfolders that are not distinct classes.

        Some classes are called like splits (the locomotive `train`, a `test_tube`), so subfolders count as splits only
        if all of them are called like one.
        """
        if not self._pattern and all(map(split_words, folders)):
            remedy = "set source.images to one of them, or source.files='**' if they are classes"
            require_one_split(self._tree.address, folders, remedy)
        seen: dict[str, str] = {}
        for folder in folders:
            if folder.isdecimal() != folders[0].isdecimal():
                problem = f"has {folders[0]} and {folder}: labels are either numbers or the order of names"
                raise StorageError(self._tree.address, problem, "rename one of them")
            other = seen.setdefault(_class_name(folder), folder)
            if other != folder:
                problem = f"has one class under two labels, {other} and {folder}"
                raise StorageError(self._tree.address, problem, "put them together")

    def _require_images_of(self, label_of: dict[str, int], files: list[str]) -> None:
        folders = {_folder(file) for file in files}
        for file in files:
            if "/" not in file:
                raise StorageError(self._tree.path(file), "is in no subfolder of a class", "move it into one")
        for folder in label_of:
            if folder not in folders:
                problem = "has no image" + (f" that {self._pattern} chooses" if self._pattern else "")
                raise StorageError(self._tree.path(folder), problem, "check source.images and source.files")

    def _misfit(self, problem: str) -> StorageError:
        return StorageError(self._tree.address, problem, "add what is missing, or set source.classes")


def _folder(file: str) -> str:
    return file.partition("/")[0]


def _class_name(folder: str) -> str:
    """The name in a form that is equal for spellings that some systems equate, and for numbers with leading zeros."""
    if folder.isdecimal():
        return str(int(folder))
    return unicodedata.normalize("NFC", folder).casefold()
