"""Pictures that Hugging Face's ``datasets`` loads, by a stand-in for the library, which is an optional extra."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
from photographs import photograph

from robbench.data import load
from robbench.errors import RobbenchError
from robbench.spec import Dataset


class Image:
    """A column of images."""

    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class ClassLabel:
    """A column of labels."""

    names = ("rose", "aster")


class Rows:
    """A part of a dataset: encoded photographs, odd ones with a path alone, and their labels."""

    def __init__(self, folder: Path, labels: list[int], features: dict[str, Any]) -> None:
        self._folder, self._labels, self.features, self._fingerprint = folder, labels, features, str(labels)

    def cast_column(self, column: str, kind: Image) -> Rows:
        """The same part, encoded."""
        assert (column, kind.decode) == ("photo", False)
        return self

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            return self._labels
        file, path = BytesIO(), self._folder / f"{key}.png"
        photograph(key).save(file, "png")
        path.write_bytes(file.getvalue())
        return {"photo": {"bytes": None if key % 2 else file.getvalue(), "path": str(path)}}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The stand-in: it notes how it was called, and whether it may ask the hub."""
    module: Any = ModuleType("datasets")
    module.Image, module.ClassLabel, module.config = Image, ClassLabel, SimpleNamespace(HF_HUB_OFFLINE=False)
    module.calls, module.parts = [], {"train": [0, 1, 1, -1], "validation": [1, 0]}
    module.features = {"photo": Image(), "label": ClassLabel()}

    def load_dataset(name: str, config: str | None) -> dict[str, Rows]:
        module.calls.append((name, config, module.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE))
        return {part: Rows(tmp_path, labels, module.features) for part, labels in module.parts.items()}

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    loaded: ModuleType = module
    return loaded


DATASET = Dataset(name="mine", hub="owner/name:small", size=8)


def test_parts_classes_and_images(library: Any, tmp_path: Path) -> None:
    """By the kinds of the columns; images without a class are left out. The hub is asked only if it may be."""
    data = load(DATASET, tmp_path)
    assert data.classes == ("rose", "aster")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 1, 1], [1, 0])
    assert (data.train.shape, data.shape) == ((3, 9, 9), (3, 8, 8))
    load(DATASET, tmp_path, download=True)
    assert library.calls == [("owner/name", "small", True, True), ("owner/name", "small", False, False)]


def test_one_part_is_split(library: Any, tmp_path: Path) -> None:
    """Class by class."""
    library.parts = {"all": [0, 1] * 5}
    data = load(DATASET, tmp_path)
    assert data.test.labels.bincount().tolist() == [1, 1]


def test_what_is_no_dataset_of_labelled_images(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of other kinds, one that is not in the cache, and a library that is not installed."""
    library.features = {"photo": Image(), "other": Image(), "label": ClassLabel()}
    with pytest.raises(RobbenchError, match="'owner/name': expected one column of images and one of class labels, got"):
        load(DATASET, tmp_path)
    library.load_dataset = lambda name, config: (tmp_path / "none").read_bytes()
    with pytest.raises(
        RobbenchError, match=r"cannot be loaded: FileNotFoundError.*; let it be downloaded with --robbench-download"
    ):
        load(DATASET, tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RobbenchError, match=r"expected `datasets` to be installed: pip install robbench\[hub\]"):
        load(DATASET, tmp_path)
