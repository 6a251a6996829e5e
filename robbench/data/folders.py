"""Which pictures a dataset has: class folders as torchvision's ImageFolder reads them, and their split. No torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from robbench.errors import RobbenchError, require
from robbench.spec import Dataset

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of image files, in any case, as torchvision's ImageFolder has them."""

TEST_PARTS = ("test", "val", "validation", "valid")
"""Names of the part that is tested on; the first that is there counts."""

_SHOWN = 10
"""Names that a message lists at most."""


class Reader(Protocol):
    """Reads encoded images by their name; it can be pickled."""

    def read(self, name: str) -> bytes:
        """The image file's bytes; an OSError where it cannot be read."""

    def stamp(self, name: str) -> str:
        """What changes when the image does: size and date of its file."""


@dataclass(frozen=True)
class Files:
    """Encoded images with the numbers of their classes."""

    reader: Reader
    names: Sequence[str]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.names)

    def take(self, numbers: Iterable[int]) -> Self:
        """Those at these places."""
        chosen = list(numbers)
        return type(self)(self.reader, [self.names[i] for i in chosen], [self.labels[i] for i in chosen])


@dataclass(frozen=True)
class Listing:
    """The pictures of a dataset."""

    classes: tuple[str, ...]
    train: Files
    test: Files


@dataclass(frozen=True)
class Folder:
    """Reads files below a folder."""

    path: str

    def read(self, name: str) -> bytes:
        """The file's bytes."""
        return Path(self.path, name).read_bytes()

    def stamp(self, name: str) -> str:
        """Size and date of the file."""
        found = Path(self.path, name).stat()
        return f"{found.st_size} {found.st_mtime_ns}"


def list_folders(path: Path, dataset: Dataset) -> Listing:
    """The pictures in class folders, or in the parts ``train`` and one of :data:`TEST_PARTS` with class folders.

    What begins with a dot is left out, since it is no picture: macOS and Jupyter leave such files and folders behind.

    Raises:
        RobbenchError: a part or a class is missing or empty, or the classes of the parts differ.
    """
    train, test = _part(path, ("train",)), _part(path, TEST_PARTS)
    if train is None and test is None:
        classes, files = _of_classes(path, path)
        return split_by_class(str(path), classes, files, dataset)
    if train is None or test is None:
        there = "train" if test is None else Path(test).name
        missing = " or ".join(TEST_PARTS[:2]) if test is None else "train"
        raise RobbenchError(f"{path}: expected a folder {missing} beside {there}, got none")
    (classes, trained), (others, tested) = _of_classes(path, train), _of_classes(path, test)
    if classes != others:
        lacking = [f"{each} only in {train.name}" for each in classes if each not in others]
        lacking += [f"{each} only in {test.name}" for each in others if each not in classes]
        raise RobbenchError(f"{path}: expected the same classes in {train.name} and {test.name}, got {_few(lacking)}")
    return Listing(classes, trained, tested)


def split_by_class(where: str, classes: tuple[str, ...], files: Files, dataset: Dataset) -> Listing:
    """Keep ``dataset.held_out`` of each class for testing, drawn by the dataset's seed, and train on the rest."""
    labels, tested = np.asarray(files.labels), np.zeros(len(files), dtype=bool)
    for label, name in enumerate(classes):
        own = np.flatnonzero(labels == label)
        require(len(own) > 1, f"{where}: class {name!r}", "two images or more, to train and to test on", len(own))
        count = min(max(1, round(len(own) * dataset.held_out)), len(own) - 1)
        tested[np.random.default_rng((dataset.seed, label)).permutation(own)[:count]] = True
    train, test = (files.take(np.flatnonzero(part).tolist()) for part in (~tested, tested))
    return Listing(classes, train, test)


def check_classes(where: str, classes: Sequence[str], labels: Sequence[int]) -> None:
    """Raise a RobbenchError unless there are two classes or more, and each of them has an image."""
    require(len(classes) > 1, f"{where}: classes", "two or more", ", ".join(classes) or "none")
    empty = [name for label, name in enumerate(classes) if label not in Counter(labels)]
    require(not empty, f"{where}: images of each class", "one or more", f"none of {_few(empty)}")


def _part(path: Path, names: Sequence[str]) -> Path | None:
    return next((path / name for name in names if (path / name).is_dir()), None)


def _of_classes(root: Path, part: Path) -> tuple[tuple[str, ...], Files]:
    """Class names and image files of a part, in ImageFolder's order."""
    try:
        folders = sorted(entry.name for entry in os.scandir(part) if entry.is_dir() and entry.name[0] != ".")
    except OSError as error:
        raise RobbenchError(f"{part} cannot be read: {error.strerror or error}; expected folders of images") from error
    require(len(folders) > 1, f"{part}: class folders", "two or more", ", ".join(folders) or "none")
    names, labels = [], []
    for label, folder in enumerate(folders):
        found, others = _images(part / folder)
        if not found:
            beside = f"{len(others)} of other kinds ({_few(sorted(set(others)))})" if others else "none"
            expected = f"one or more of {' '.join(ENDINGS)}"
            raise RobbenchError(f"{part}: images of class {folder!r}: expected {expected}, got {beside}")
        names += [os.path.relpath(file, root) for file in found]
        labels += [label] * len(found)
    return tuple(folders), Files(Folder(str(root)), names, labels)


def _images(folder: Path) -> tuple[list[str], list[str]]:
    """Paths of the image files below a folder, through links as well, and the endings of its other files."""
    found, others = [], []
    for where, _, files in sorted(os.walk(folder, followlinks=True)):
        if any(part[0] == "." for part in Path(where).relative_to(folder).parts):
            continue
        for name in sorted(name for name in files if name[0] != "."):
            if name.lower().endswith(ENDINGS):
                found.append(os.path.join(where, name))
            else:
                others.append(Path(name).suffix or name)
    return found, others


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
