"""Prepared arrays: a dataset as one ``.npz`` file, which is how users bring their own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robbench.data.images import Data, Images
from robbench.errors import RobbenchError, require
from robbench.spec.catalogue import DATASETS

Array = np.ndarray[Any, np.dtype[Any]]

ARRAYS = ("x_train", "y_train", "x_test", "y_test", "classes")
LAYOUT = f"the arrays {', '.join(ARRAYS)} (uint8 images (N, H, W) or (N, H, W, C), integer labels, class names)"


def read_npz(path: Path, name: str) -> Data:
    """Read a prepared file.

    Args:
        path: file with the five arrays of :data:`ARRAYS`.
        name: the dataset's name; one of the catalogue's must have the catalogue's shape and number of classes.

    Raises:
        RobbenchError: the file is unreadable, or one of its arrays is missing or not as expected.
    """
    arrays, reading = {}, str(path)
    try:
        with path.open("rb") as file:
            # Not np.load: it takes every file that is no archive for a pickle, and advises to load that.
            archive = np.lib.npyio.NpzFile(file, allow_pickle=False)
            found = archive.files
            for array in (array for array in ARRAYS if array in found):
                reading = f"{path}: array {array}"
                arrays[array] = np.asarray(archive[array])
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for a damaged archive
        if str(error).startswith("Object arrays"):
            expected = "uint8 images, integer labels or strings (np.array(names, dtype=str))"
            raise RobbenchError(f"{reading}: expected {expected}, got Python objects (dtype object)") from error
        problem = f"{type(error).__name__}: {error}"
        raise RobbenchError(f"{reading}: expected an .npz archive with {LAYOUT}; got {problem}") from error
    if not set(ARRAYS) <= set(found):
        expected = f"the arrays {', '.join(ARRAYS)}"
        raise RobbenchError(f"{path}: expected {expected}; got only {', '.join(found) or 'nothing'}")
    return from_arrays(name, arrays, str(path))


def write_npz(path: Path, data: Data) -> None:
    """Write ``data`` as a prepared file, whole or not at all, whoever else reads or writes it at the same time.

    Raises:
        RobbenchError: the folder cannot be made or written.
    """
    arrays: dict[str, Array] = {"classes": np.array(data.classes)}
    for part, source in (("train", data.train), ("test", data.test)):
        whole = source.take(torch.arange(len(source))).to("cpu")
        channels_last = whole.images.permute(0, 2, 3, 1).numpy()
        arrays[f"x_{part}"] = channels_last[..., 0] if channels_last.shape[3] == 1 else channels_last
        arrays[f"y_{part}"] = whole.labels.numpy()
    # Not tempfile: its files are readable by their owner only, and data folders are shared.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RobbenchError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def from_arrays(name: str, arrays: Mapping[str, Array], source: str) -> Data:
    """Check the five arrays of :data:`ARRAYS` and turn them into a dataset; ``source`` names them in messages.

    Raises:
        RobbenchError: an array is not as expected; the message names source, array, expectation and value.
    """
    classes = _classes(arrays["classes"], f"{source}: array classes")
    parts: list[Images] = []
    for part in ("train", "test"):
        images = _images(arrays[f"x_{part}"], f"{source}: array x_{part}")
        labels = _labels(arrays[f"y_{part}"], f"{source}: array y_{part}", len(images), len(classes))
        parts.append(Images(images, labels))
    seen = np.unique(arrays["y_train"]).tolist()
    require(len(seen) > 1, f"{source}: array y_train", "labels of two or more of the classes", seen)
    data = Data(name, parts[0], parts[1], classes)
    shape, expected = data.test.shape, f"channels, height, width {data.shape} as in x_train"
    require(shape == data.shape, f"{source}: array x_test", expected, shape)
    if name in DATASETS:
        facts = DATASETS[name]
        field = f"{source}: array classes"
        require(len(classes) == facts.classes, field, f"the {facts.classes} classes of {name}", len(classes))
        field = f"{source}: array x_train"
        require(data.shape == facts.shape, field, f"channels, height, width {facts.shape} of {name}", data.shape)
    return data


def _images(array: Array, field: str) -> torch.Tensor:
    """(N, H, W) or (N, H, W, C) uint8 -> (N, C, H, W) uint8."""
    require(array.dtype == np.uint8, field, "uint8 images from 0 to 255", str(array.dtype))
    require(array.ndim in (3, 4), field, "3 or 4 dimensions, (N, H, W) or (N, H, W, C)", array.shape)
    if array.ndim == 3:
        array = array[..., None]
    require(array.shape[3] <= 4, field, "1 to 4 channels, in the last dimension", array.shape)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def _labels(array: Array, field: str, images: int, classes: int) -> torch.Tensor:
    """(N,) of any integer dtype -> (N,) int64."""
    require(array.dtype.kind in "iu", field, "integer labels", str(array.dtype))
    require(array.shape == (images,), field, f"shape ({images},), one label for each image", array.shape)
    for extreme in (array.min(), array.max()):
        require(0 <= int(extreme) < classes, field, f"labels from 0 to {classes - 1}", int(extreme))
    return torch.from_numpy(array.astype(np.int64))


def _classes(array: Array, field: str) -> tuple[str, ...]:
    names = tuple(map(str, array.tolist()))
    require(len(set(names)) == len(names) >= 2, field, "two or more different names", names)
    return names
