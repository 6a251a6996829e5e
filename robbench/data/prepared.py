"""Prepared arrays: a dataset as one ``.npz`` file, which is how users bring their own."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robbench.data.images import Data, Images
from robbench.errors import RobbenchError, require
from robbench.spec.catalogue import DATASETS
from robbench.store.files import write_atomically

Array = np.ndarray[Any, np.dtype[Any]]

ARRAYS = ("x_train", "y_train", "x_test", "y_test", "classes")
LAYOUT = (
    f"the arrays {', '.join(ARRAYS)} "
    "(uint8 images (N, H, W) or (N, H, W, C), integer labels, class names as strings, not as objects)"
)


def read_npz(path: Path, name: str) -> Data:
    """Read a prepared file with the five arrays of :data:`ARRAYS`.

    Raises:
        RobbenchError: the file is unreadable, or one of its arrays is missing or not as expected.
    """
    try:
        # Not np.load: it takes every file that is no archive for a pickle, and advises to load that.
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            arrays = {array: archive[array] for array in ARRAYS}
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for a damaged archive
        problem = f"{type(error).__name__}: {error}"
        raise RobbenchError(f"{path}: expected an .npz archive with {LAYOUT}; got {problem}") from error
    return from_arrays(name, arrays, str(path))


def write_npz(path: Path, data: Data) -> None:
    """Write ``data`` as a prepared file, whole or not at all; a RobbenchError where the folder cannot be written."""
    arrays: dict[str, Array] = {"classes": np.array(data.classes)}
    for part, source in (("train", data.train), ("test", data.test)):
        whole = source.take(torch.arange(len(source))).to("cpu")
        channels_last = whole.images.permute(0, 2, 3, 1).numpy()
        arrays[f"x_{part}"] = channels_last[..., 0] if channels_last.shape[3] == 1 else channels_last
        arrays[f"y_{part}"] = whole.labels.numpy()
    file = BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    write_atomically(path, file.getvalue())


def from_arrays(name: str, arrays: Mapping[str, Array], source: str) -> Data:
    """Check the five arrays of :data:`ARRAYS` and turn them into a dataset; ``source`` names them in messages.

    A name of the catalogue must have the catalogue's shape and number of classes.
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
    shape, expected = data.train.shape, f"channels, height, width {data.train.shape} as in x_train"
    require(shape == data.shape, f"{source}: array x_test", expected, data.shape)
    if facts := DATASETS.get(name):
        here, there = (len(classes), *data.shape), (facts.classes, *facts.shape)
        require(here == there, source, f"classes, channels, height, width {there} of {name}", here)
    return data


def _images(array: Array, field: str) -> torch.Tensor:
    """(N, H, W) or (N, H, W, C) uint8 -> (N, C, H, W) uint8."""
    require(array.dtype == np.uint8, field, "uint8 images from 0 to 255", str(array.dtype))
    if array.ndim == 3:
        array = array[..., None]
    fits = array.ndim == 4 and array.shape[3] <= 4
    require(fits, field, "(N, H, W) or (N, H, W, C) with 1 to 4 channels", array.shape)
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
