"""How many images a dataset has, without reading them. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from robbench.errors import RobbenchError, unknown
from robbench.spec import Dataset
from robbench.spec.catalogue import DATASETS


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of images of a dataset, and channels, height, width of one."""

    train: int
    test: int
    shape: tuple[int, int, int]


def sizes(name: str, data: Path) -> Sizes:
    """Sizes of a dataset by the header of its prepared file, or else by its name; a RobbenchError without either."""
    path = data / f"{name}.npz"
    if path.exists():
        shapes = {part: _shape(path, f"x_{part}.npy") for part in ("train", "test")}
        height, width, *channels = shapes["train"][1:]
        shape = (channels[0] if channels else 1, height, width)
        return Sizes(train=shapes["train"][0], test=shapes["test"][0], shape=shape)
    if name not in DATASETS:
        raise unknown_dataset(name, data)
    facts = DATASETS[name]
    return Sizes(train=facts.train, test=facts.test, shape=facts.shape)


def sizes_of(dataset: Dataset, data: Path) -> Sizes:
    """Sizes of a dataset; those of pictures by their listing, from which none is read. Errors as of what lists them."""
    if dataset.size is None:
        return sizes(dataset.name, data)
    from robbench.data.loading import list_pictures

    found, shape = list_pictures(dataset, data), (dataset.channels, dataset.size, dataset.size)
    return Sizes(train=len(found.train), test=len(found.test), shape=shape)


def unknown_dataset(name: str, data: Path) -> RobbenchError:
    """The error for a name that is neither known nor a prepared file's, with the nearest of both."""
    known = {*DATASETS, *(file.stem for file in data.glob("*.npz"))}
    return RobbenchError(f"{unknown('dataset', name, known)}; or put {data / f'{name}.npz'} there")


def _shape(path: Path, array: str) -> tuple[int, ...]:
    """An array's shape, from the first bytes of its part of the archive."""
    try:
        with ZipFile(path) as archive, archive.open(array) as file:
            np.lib.format.read_magic(file)
            shape: tuple[int, ...] = np.lib.format.read_array_header_1_0(file)[0]
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for a damaged archive
        raise RobbenchError(f"{path}: expected a prepared file, see `robbench data` ({error})") from error
    return shape


def parts(dataset: Dataset, train: int) -> tuple[int, int]:
    """Numbers of images to train on and to validate on, if the dataset has ``train`` training images."""
    count = taken(dataset, dataset.train, train)
    judged = round(count * dataset.validation)
    return count - judged, judged


def taken(dataset: Dataset, wanted: int | None, there: int) -> int:
    """Of ``there`` images at most ``wanted``; drawn datasets have as many as are asked for."""
    if wanted is None:
        return there
    return wanted if dataset.name.startswith("glyphs") else min(wanted, there)
