"""Pictures in webdataset's shards: tar archives of images, each beside a file ``.cls`` with its class. No torch."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robbench.data.folders import ENDINGS, TEST_PARTS, Files, Listing, check_classes, split_by_class
from robbench.errors import RobbenchError
from robbench.spec import Dataset

CLASSES = "classes.txt"
"""File beside the shards with the names of numbered classes, one a line."""

_LAYOUT = "webdataset's shards: uncompressed tar archives with an image and a text file .cls (a class) for each key"


@dataclass(frozen=True)
class Shards:
    """Reads images out of tar archives, without reading what lies before them."""

    path: str
    places: Mapping[str, tuple[str, int, int]]
    """Archive, and offset and length in it, by ``<archive>/<member>``."""
    stamps: Mapping[str, str]
    """Size and date of each archive."""

    def read(self, name: str) -> bytes:
        """The bytes of a member."""
        archive, offset, length = self.places[name]
        with Path(self.path, archive).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def stamp(self, name: str) -> str:
        """Where the member lies, and its archive's size and date."""
        return f"{self.places[name]} {self.stamps[self.places[name][0]]}"


def archives(path: Path) -> list[Path]:
    """The tar archives in a folder and in the folders in it, in order."""
    return sorted([*path.glob("*.tar"), *path.glob("*/*.tar")])


def list_shards(path: Path, dataset: Dataset) -> Listing:
    """The pictures in a folder's archives, of which the names say the part: ``train``, and one of :data:`TEST_PARTS`.

    Classes are numbers, with names in :data:`CLASSES` if that file is there, or names.

    Raises:
        RobbenchError: an archive cannot be read, an image has no class, a part is missing, or a class is empty.
    """
    found = {archive.relative_to(path).as_posix(): [*_members(path, archive)] for archive in archives(path)}
    train = [name for name in found if "train" in name]
    test = next((own for part in TEST_PARTS if (own := [name for name in found if part in name])), [])
    if bool(train) != bool(test):
        missing = "test or val" if train else "train"
        raise RobbenchError(f"{path}: expected archives of a part {missing} beside {(train or test)[0]}, got none")
    numbers = {label: number for number, label in enumerate(_classes(found.values()))}
    classes = _named(path, tuple(numbers))
    places = {name: place for members in found.values() for name, _, place in members}
    stamps = {name: f"{(path / name).stat().st_size} {(path / name).stat().st_mtime_ns}" for name in found}
    reader = Shards(str(path), places, stamps)

    def files(names: Iterable[str]) -> Files:
        members = [member for name in names for member in found[name]]
        files = Files(reader, [name for name, _, _ in members], [numbers[label] for _, label, _ in members])
        check_classes(str(path), classes, files.labels)
        return files

    if not train:
        return split_by_class(str(path), classes, files(found), dataset)
    return Listing(classes, files(train), files(test))


def _members(path: Path, archive: Path) -> Iterator[tuple[str, str, tuple[str, int, int]]]:
    """Name, class and place of each image."""
    within = archive.relative_to(path).as_posix()
    images: dict[str, tuple[str, tuple[str, int, int]]] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                key, _, ending = name.partition(".")
                key = f"{folder}/{key}"
                if member.isfile() and f".{ending.lower()}" in ENDINGS:
                    images[key] = f"{within}/{member.name}", (within, member.offset_data, member.size)
                elif member.isfile() and ending == "cls" and (file := tar.extractfile(member)):
                    label = file.read().decode().strip()
                    labels[key] = str(int(label)) if label.isdecimal() else label
    except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
        raise RobbenchError(f"{archive}: expected {_LAYOUT}; {error}") from error
    bare = [name for key, (name, _) in images.items() if key not in labels]
    if bare or not images:
        got = f"{len(bare)} images without a class, as {bare[0]}" if bare else "no image"
        raise RobbenchError(f"{archive}: expected {_LAYOUT}; got {got}")
    for key, (name, place) in images.items():
        yield name, labels[key], place


def _classes(members: Iterable[Sequence[tuple[str, str, tuple[str, int, int]]]]) -> list[str]:
    """The labels in order: numbers from 0 to the largest, or sorted names."""
    found = {label for each in members for _, label, _ in each}
    if not all(label.isdecimal() for label in found):
        return sorted(found)
    return [str(number) for number in range(max(map(int, found)) + 1)]


def _named(path: Path, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The names of numbered classes, where there are any."""
    file = path / CLASSES
    if not file.is_file():
        return classes
    names = tuple(file.read_text(encoding="utf-8").split("\n")[: len(classes)])
    if len(set(names)) != len(classes):
        raise RobbenchError(f"{file}: expected {len(classes)} different names, one a line, got {len(set(names))}")
    return names
