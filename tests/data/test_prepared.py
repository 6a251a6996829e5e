"""Tests of the prepared arrays."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robbench.data import Data, Images, read_npz, write_npz
from robbench.errors import RobbenchError

Make = Callable[..., dict[str, Any]]


@st.composite
def datasets(draw: st.DrawFn) -> Data:
    """Small datasets of any shape that robbench takes."""
    channels, height, width, classes = draw(st.tuples(*[st.integers(1, 4)] * 3, st.integers(2, 5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    parts = []
    for count in draw(st.tuples(st.integers(2, 6), st.integers(1, 6))):
        images = torch.randint(256, (count, channels, height, width), generator=generator).to(torch.uint8)
        labels = torch.randint(classes, (count,), generator=generator)
        if not parts:  # an image of another class than the next
            labels[0] = (labels[1] + 1) % classes
        parts.append(Images(images, labels))
    names = draw(st.lists(st.text("abcé 0", min_size=1), min_size=classes, max_size=classes, unique=True))
    return Data("own", parts[0], parts[1], tuple(names))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=datasets())
def test_what_is_written_is_read(data: Data, tmp_path: Path) -> None:
    """A dataset survives its file, digest and all, and no temporary file stays behind."""
    path = tmp_path / "own.npz"
    write_npz(path, data)
    again = read_npz(path, "own")
    assert again.fingerprint == data.fingerprint
    assert again.classes == data.classes
    assert again.shape == data.shape
    assert torch.equal(again.train.images, data.train.images)
    assert torch.equal(again.test.labels, data.test.labels)
    assert os.listdir(tmp_path) == ["own.npz"]


def test_grey_and_colour_layouts(arrays: Make, tmp_path: Path) -> None:
    """Channels move from the last place to the second; grey images get one."""
    path = tmp_path / "own.npz"
    for channels, shape in ((None, (1, 28, 28)), (1, (1, 28, 28)), (3, (3, 28, 28))):
        made = arrays(channels=channels)
        np.savez(path, **made)
        data = read_npz(path, "own")
        assert data.shape == shape
        flat = made["x_train"].reshape(12, 28, 28, -1)
        assert data.train.images[5, -1, 2, 3] == flat[5, 2, 3, -1]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "float images": ({"x_train": np.zeros((12, 28, 28), np.float32)}, "x_train: expected uint8 images.*'float32'"),
    "flat images": (
        {"x_train": np.zeros((12, 784), np.uint8)},
        r"x_train: expected .*1 to 4 channels, got \(12, 784\)",
    ),
    "channels first": ({"x_train": np.zeros((12, 3, 28, 28), np.uint8)}, "x_train: expected .*1 to 4 channels"),
    "other size": ({"x_test": np.zeros((7, 9, 9), np.uint8)}, r"x_test: expected .*\(1, 28, 28\) as in x_train"),
    "float labels": ({"y_train": np.zeros(12)}, "y_train: expected integer labels, got 'float64'"),
    "few labels": ({"y_train": np.zeros(11, int)}, r"y_train: expected shape \(12,\).*got \(11,\)"),
    "label too large": ({"y_train": np.full(12, 10)}, "y_train: expected labels from 0 to 9, got 10"),
    "label below zero": ({"y_test": np.full(7, -1)}, "y_test: expected labels from 0 to 9, got -1"),
    "one class": ({"y_train": np.full(12, 3)}, r"y_train: expected labels of two or more of the classes, got \[3\]"),
    "repeated classes": ({"classes": np.array(["a"] * 10)}, "classes: expected two or more different names"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_array(case: str, arrays: Make, tmp_path: Path) -> None:
    """An array that is not as expected is named with its file, the expectation and the value."""
    replaced, message = BAD[case]
    np.savez(tmp_path / "own.npz", **arrays(**replaced))
    with pytest.raises(RobbenchError, match=rf"own\.npz: array {message}"):
        read_npz(tmp_path / "own.npz", "own")


def test_known_names_have_their_classes_and_shape(arrays: Make, tmp_path: Path) -> None:
    """A file with the name of a known dataset has its number of classes and its image size."""
    path = tmp_path / "emnist.npz"
    for found, options in (((10, 1, 28, 28), {}), ((47, 1, 32, 32), {"side": 32, "class_count": 47})):
        np.savez(path, **arrays(**options))
        message = rf"expected classes, .* \(47, 1, 28, 28\) of emnist, got {re.escape(str(found))}"
        with pytest.raises(RobbenchError, match=message):
            read_npz(path, "emnist")


def test_what_is_no_archive_of_the_five_arrays_is_refused(arrays: Make, tmp_path: Path) -> None:
    """A missing array, an array of objects, and a pickle, which is never loaded."""
    path, layout = tmp_path / "own.npz", r"own\.npz: expected an \.npz archive with the arrays .*strings.*; got "
    made = arrays()
    del made["y_test"]
    np.savez(path, **made)
    with pytest.raises(RobbenchError, match=layout + "KeyError: 'y_test"):
        read_npz(path, "own")
    np.savez(path, **arrays(classes=np.array(["a"] * 10, dtype=object)))
    with pytest.raises(RobbenchError, match=layout + "ValueError: Object arrays cannot be loaded"):
        read_npz(path, "own")
    path.write_bytes(pickle.dumps({"x_train": 1}))
    with pytest.raises(RobbenchError, match=layout + "BadZipFile: File is not a zip file$"):
        read_npz(path, "own")
