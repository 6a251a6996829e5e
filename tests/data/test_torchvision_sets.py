"""Tests of torchvision's datasets, on small files in torchvision's own formats, without a network."""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from robbench.data import load, prepare
from robbench.errors import RobbenchError
from robbench.spec import Dataset
from robbench.spec.catalogue import EMNIST_CLASSES

Make = Callable[..., dict[str, Any]]
MNIST_FILES = {"train": "train-{}", "test": "t10k-{}"}
EMNIST_FILES = {"train": "emnist-balanced-train-{}", "test": "emnist-balanced-test-{}"}


def idx(array: np.ndarray[Any, Any]) -> bytes:
    """An array of bytes in LeCun's idx format."""
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, names: dict[str, str], made: dict[str, Any]) -> None:
    """The four files of MNIST or of EMNIST's balanced split."""
    folder.mkdir(parents=True)
    for part, name in names.items():
        (folder / name.format("images-idx3-ubyte")).write_bytes(idx(made[f"x_{part}"]))
        (folder / name.format("labels-idx1-ubyte")).write_bytes(idx(made[f"y_{part}"]))


def write_cifar(kind: type[datasets.CIFAR10], root: Path, made: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """CIFAR's python files, and torchvision's checksums set to theirs: the true ones forbid small files."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    labels = "labels" if kind is datasets.CIFAR10 else "fine_labels"

    def write(name: str, content: object) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for part, listing in (("train", "train_list"), ("test", "test_list")):
        names = [name for name, _ in getattr(kind, listing)]
        images = made[f"x_{part}"].transpose(0, 3, 1, 2).reshape(len(made[f"x_{part}"]), -1)
        chunks = zip(
            names, np.array_split(images, len(names)), np.array_split(made[f"y_{part}"], len(names)), strict=True
        )
        sums = [[name, write(name, {"data": x, labels: y.tolist()})] for name, x, y in chunks]
        patch.setattr(kind, listing, sums)
    meta = kind.meta | {"md5": write(kind.meta["filename"], {kind.meta["key"]: made["classes"].tolist()})}
    patch.setattr(kind, "meta", meta)


def test_mnist_is_read_and_prepared(arrays: Make, tmp_path: Path) -> None:
    """What torchvision reads is returned, written once as a prepared file, and the same from there."""
    made = arrays()
    write_idx(tmp_path / "MNIST/raw", MNIST_FILES, made)
    first = load(Dataset(name="mnist", train=3, seed=1), tmp_path)
    (tmp_path / "MNIST").rename(tmp_path / "away")
    again = load(Dataset(name="mnist", train=3, seed=1), tmp_path)
    assert again.fingerprint == first.fingerprint
    assert first.classes == tuple("0123456789")
    whole = load(Dataset(name="mnist"), tmp_path)
    assert np.array_equal(whole.train.images[:, 0].numpy(), made["x_train"])
    assert np.array_equal(whole.test.labels.numpy(), made["y_test"])


def test_emnist_is_turned_upright(arrays: Make, tmp_path: Path) -> None:
    """The files hold transposed images: so does ``stored``; ``upright`` and the prepared file hold them turned back."""
    made = arrays(class_count=47)
    write_idx(tmp_path / "EMNIST/raw", EMNIST_FILES, made)
    for _ in ("from torchvision", "from the prepared file"):
        upright, stored = (load(Dataset(name="emnist", orientation=way), tmp_path) for way in ("upright", "stored"))
        assert np.array_equal(stored.train.images[:, 0].numpy(), made["x_train"])
        assert torch.equal(upright.train.images, stored.train.images.transpose(2, 3))
    assert upright.classes == EMNIST_CLASSES
    with np.load(tmp_path / "emnist.npz") as file:
        assert np.array_equal(file["x_test"], made["x_test"].transpose(0, 2, 1))


def test_emnist_classes_are_torchvisions() -> None:
    """The catalogue's 47 classes are torchvision's, in the order of its labels."""
    assert list(EMNIST_CLASSES) == datasets.EMNIST.classes_split_dict["balanced"]


@pytest.mark.parametrize(
    ("name", "kind", "classes"), [("cifar10", datasets.CIFAR10, 10), ("cifar100", datasets.CIFAR100, 100)]
)
def test_cifar_is_read(
    name: str, kind: type[datasets.CIFAR10], classes: int, arrays: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Colours, labels and class names come through, from torchvision's files and from the prepared one."""
    made = arrays(side=32, channels=3, class_count=classes)
    write_cifar(kind, tmp_path, made, monkeypatch)
    for _ in ("from torchvision", "from the prepared file"):
        data = load(Dataset(name=name), tmp_path)
        assert np.array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), made["x_train"])
        assert np.array_equal(data.test.labels.numpy(), made["y_test"])
        assert data.classes == tuple(made["classes"])


def test_truncated_idx(arrays: Make, tmp_path: Path) -> None:
    """A file that was cut off is named as damaged."""
    write_idx(tmp_path / "MNIST/raw", MNIST_FILES, arrays())
    file = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(RobbenchError, match=r"dataset 'mnist': expected torchvision's files in .*could not read it"):
        load(Dataset(name="mnist"), tmp_path)


def test_download(arrays: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision's downloader is asked only on request, and what it fetched is prepared."""
    folder, made = tmp_path / "data", arrays()

    def fetch(_: datasets.MNIST) -> None:
        if not (folder / "MNIST").exists():
            write_idx(folder / "MNIST/raw", MNIST_FILES, made)

    monkeypatch.setattr(datasets.MNIST, "download", fetch)
    with pytest.raises(RobbenchError, match="--robbench-download"):
        prepare("mnist", folder=folder)
    assert prepare("mnist", folder=folder, download=True) == folder / "mnist.npz"
    assert np.array_equal(load(Dataset(name="mnist"), folder).test.images[:, 0].numpy(), made["x_test"])


def test_folder_that_cannot_be_written(arrays: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading goes on without a prepared file, and preparing one is refused."""
    write_idx(tmp_path / "MNIST/raw", MNIST_FILES, arrays())

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("robbench.store.files.os.replace", refuse)
    assert len(load(Dataset(name="mnist"), tmp_path).train) == 12
    with pytest.raises(RobbenchError, match=r"mnist\.npz' cannot be written: Read-only"):
        prepare("mnist", folder=tmp_path)
