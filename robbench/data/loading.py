"""From a dataset's name or spec to its images, wherever they come from."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from robbench.data import glyphs, torchvision_sets
from robbench.data.batches import split
from robbench.data.folders import Listing, list_folders
from robbench.data.hub import list_rows
from robbench.data.images import Data, Images, ImageSource, Subset, some_of, subset
from robbench.data.pictures import MEMORY_SHARE, load_pictures
from robbench.data.prepared import LAYOUT, read_npz, write_npz
from robbench.data.shards import archives, list_shards
from robbench.data.sizes import unknown_dataset
from robbench.errors import RobbenchError, require
from robbench.machine.memory import free_bytes
from robbench.spec import Dataset
from robbench.spec.catalogue import DATASETS, plain_name

CACHE = "decoded"
"""Folder in the data folder that holds decoded pictures and drawn images; it may be deleted."""

_MANY = 1000
"""Drawn images that are kept on disk, at least: fewer are drawn in a second."""


def load(
    dataset: Dataset,
    folder: Path,
    *,
    download: bool = False,
    show: Callable[[str, float, float], None] = lambda what, done, total: None,
    announce: Callable[[str], None] = lambda text: None,
) -> Data:
    """A dataset's images: pictures, drawn, from ``<folder>/<name>.npz``, or torchvision's, the first that applies.

    What torchvision read is written as the prepared file, if the folder can be written, and read from there afterwards;
    a thousand drawn images or more are kept in ``<folder>/decoded``.
    With ``download`` torchvision downloads what is missing. ``show`` and ``announce`` are those of
    :func:`robbench.data.pictures.load_pictures`.

    Raises:
        RobbenchError: dataset not on disk, damaged file, failed download.
    """
    if dataset.size is not None:
        listing = list_pictures(dataset, folder, download=download)
        return load_pictures(listing, dataset, folder / CACHE, show=show, announce=announce)
    name, train, test, seed = dataset.name, dataset.train, dataset.test, dataset.seed
    if name in glyphs.GLYPHS:
        data = _drawn(name, train or DATASETS[name].train, test or DATASETS[name].test, seed, folder / CACHE)
    else:
        data = _on_disk(name, folder, download)
    stored = dataset.orientation == "stored"
    return Data(name, _part(data.train, train, seed, stored), _part(data.test, test, seed, stored), data.classes)


load_data = lru_cache(maxsize=4)(load)
"""As :func:`load`; the last few datasets stay loaded for the next stage."""


def training_parts(dataset: Dataset, data: Data, device: torch.device) -> tuple[ImageSource, ImageSource]:
    """Training and validation images on the device; a RobbenchError where there are too few for both."""
    overlapping = dataset.split == "overlapping"
    try:
        chosen = split(len(data.train), validation=dataset.validation, seed=dataset.seed, overlapping=overlapping)
    except RobbenchError as error:
        raise RobbenchError(f"dataset {dataset.name!r} {error}") from error
    sides = None, None if data.train.shape == data.shape else data.shape[1]
    train, validation = (subset(data.train, index, side=side) for index, side in zip(chosen, sides, strict=True))
    return _placed(train, device), _placed(validation, device)


def list_pictures(dataset: Dataset, folder: Path, *, download: bool = False) -> Listing:
    """The pictures of a dataset that has a size; ``folder`` is the data folder.

    Raises:
        RobbenchError: no such folder; otherwise as :func:`list_folders`, :func:`list_shards`, :func:`list_rows`.
    """
    if dataset.hub is not None:
        return list_rows(dataset, download=download)
    where = folder / dataset.name if dataset.folder is None else Path(dataset.folder).expanduser()
    if not where.is_dir():
        raise RobbenchError(f"dataset {dataset.name!r}: expected a folder of pictures {where.resolve()}, there is none")
    return list_shards(where, dataset) if archives(where) else list_folders(where, dataset)


def attacked_images(test: ImageSource, chosen: Tensor) -> ImageSource:
    """The test images that are attacked: read at once where they fit into memory, since they are taken many times."""
    size = len(chosen) * math.prod(test.shape)
    return test.take(chosen) if size <= MEMORY_SHARE * free_bytes(torch.device("cpu")) else subset(test, chosen)


def _placed(source: ImageSource, device: torch.device) -> ImageSource:
    """The source on the device; pictures that would fill its memory go there when they are taken."""
    large = isinstance(source, Images) and source.images.nbytes > MEMORY_SHARE * free_bytes(device)
    if device.type != "cpu" and large:
        source = Subset(source, torch.arange(len(source)))
    return source.to(device)


def prepare(name: str, *, folder: Path, download: bool = False) -> Path:
    """The path of a dataset's prepared file, which is checked, or written from torchvision's if it is missing.

    Raises:
        RobbenchError: a drawn dataset, which needs no file; otherwise as :func:`load`, and a folder not writable.
    """
    require(plain_name(name), "dataset", "a plain file name without folder and ending", name)
    require(name not in glyphs.GLYPHS, "dataset", "one that is read from disk; this one is drawn when used", name)
    data = _on_disk(name, folder, download)
    path = folder / f"{name}.npz"
    if not path.is_file():
        write_npz(path, data)
    return path


def _drawn(name: str, train: int, test: int, seed: int, folder: Path) -> Data:
    """A drawn dataset; a large one is kept in the folder, under the digest of ``glyphs.py``."""
    code = sha256(Path(glyphs.__file__).read_bytes()).hexdigest()[:12]
    path = folder / f"{name}-{train}-{test}-{seed}-{code}.npz"
    with suppress(RobbenchError):  # there is none, or a damaged one
        return read_npz(path, name)
    data = Data(name, glyphs.draw(name, train, 2 * seed), glyphs.draw(name, test, 2 * seed + 1), glyphs.GLYPHS[name])
    if train + test >= _MANY:
        with suppress(RobbenchError):  # the folder cannot be written: the next run draws again
            write_npz(path, data)
    return data


def _on_disk(name: str, folder: Path, download: bool) -> Data:
    """The whole dataset, upright, from its prepared file or else from torchvision, then prepared for the next time."""
    path = folder / f"{name}.npz"
    if path.is_file():
        return read_npz(path, name)
    if name not in torchvision_sets.FOLDERS:
        raise RobbenchError(f"{unknown_dataset(name, folder)} with {LAYOUT}")
    data = torchvision_sets.fetch(name, folder, download=download)
    if data is None:
        raise RobbenchError(
            f"dataset {name!r} is not on disk: expected {path} or torchvision's {folder / torchvision_sets.FOLDERS[name]}; "
            f"let torchvision download it with --robbench-download (`robbench data {name} --download`), "
            f"or put {path.name} there with {LAYOUT}"
        )
    with suppress(RobbenchError):  # the folder cannot be written: the next run asks torchvision again
        write_npz(path, data)
    return data


def _part(source: ImageSource, count: int | None, seed: int, transposed: bool) -> Images:
    """A random ``count`` of the images, in the file's order."""
    part = source.take(some_of(len(source), len(source) if count is None else count, seed))
    return Images(part.images.transpose(2, 3).contiguous(), part.labels) if transposed else part
