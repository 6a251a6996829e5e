"""The datasets that torchvision can download, read in full."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from robbench.data.images import Data
from robbench.data.prepared import from_arrays
from robbench.errors import RobbenchError
from robbench.spec.catalogue import EMNIST_CLASSES

FOLDERS = {
    "mnist": "MNIST/raw",
    "emnist": "EMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
}
"""Where torchvision keeps each dataset, below the data folder."""


def fetch(name: str, folder: Path, *, download: bool = False) -> Data | None:
    """Read one of :data:`FOLDERS` with torchvision; EMNIST is its ``balanced`` split, turned upright.

    None if the dataset is neither on disk nor to be downloaded.

    Raises:
        RobbenchError: the download failed, or what is on disk is damaged.
    """
    where = folder / FOLDERS[name]
    if not download and not where.is_dir():
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Without the lock, workers of pytest-xdist would unpack over one another.
        with FileLock(folder / f".{name}.lock") if download else nullcontext():
            train, test = (_open(name, folder, train, download=download) for train in (True, False))
    except Exception as error:  # torchvision's readers let every error of a damaged file through, a failed assert too
        problem = f"torchvision could not {'download' if download else 'read'} it: {type(error).__name__}: {error}"
        raise RobbenchError(
            f"dataset {name!r}: expected torchvision's files in {where}; {problem}; "
            f"delete that folder and use --robbench-download, or put a prepared {folder / name}.npz there"
        ) from error
    arrays = {"classes": np.array({"mnist": EMNIST_CLASSES[:10], "emnist": EMNIST_CLASSES}.get(name, train.classes))}
    for part, read in (("train", train), ("test", test)):
        images = np.asarray(read.data)
        arrays[f"x_{part}"] = images.transpose(0, 2, 1) if name == "emnist" else images
        arrays[f"y_{part}"] = np.asarray(read.targets)
    return from_arrays(name, arrays, str(where))


def _open(name: str, folder: Path, train: bool, *, download: bool) -> Any:
    from torchvision import datasets  # seconds to import, and only the first run on a machine needs it

    if name == "emnist":
        return datasets.EMNIST(folder, split="balanced", train=train, download=download)
    kind = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    return kind(folder, train=train, download=download)
