"""Pictures that Hugging Face's ``datasets`` loads by name; an optional extra, ``robbench[hub]``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from robbench.data.folders import TEST_PARTS, Files, Listing, check_classes, split_by_class
from robbench.errors import RobbenchError, require
from robbench.spec import Dataset


@dataclass(frozen=True)
class Rows:
    """Reads images out of the rows of the parts of a dataset, as ``<part>/<row>``."""

    parts: Mapping[str, Any]
    column: str

    def read(self, name: str) -> bytes:
        """The bytes of the image file in a row."""
        part, _, row = name.rpartition("/")
        found = self.parts[part][int(row)][self.column]
        data: bytes | None = found["bytes"]
        return Path(found["path"]).read_bytes() if data is None else data

    def stamp(self, name: str) -> str:
        """The fingerprint that ``datasets`` has of the part."""
        return str(self.parts[name.rpartition("/")[0]]._fingerprint)


def list_rows(dataset: Dataset, *, download: bool) -> Listing:
    """The pictures of a dataset on the hub, from the cache of ``datasets`` unless it may be downloaded.

    Raises:
        RobbenchError: ``datasets`` is not installed, the dataset cannot be loaded, has not one column of images and
            one of classes, or lacks a part or images of a class.
    """
    assert dataset.hub is not None
    name, _, config = dataset.hub.partition(":")
    try:
        datasets: Any = import_module("datasets")
    except ImportError as error:
        raise RobbenchError(
            f"dataset {name!r}: expected `datasets` to be installed: pip install robbench[hub]"
        ) from error
    try:
        with nullcontext() if download else _offline(datasets):
            parts = datasets.load_dataset(name, config or None)
    except Exception as error:  # whatever its loaders and its network layer raise
        how = "" if download else "; let it be downloaded with --robbench-download"
        raise RobbenchError(f"dataset {name!r} cannot be loaded: {type(error).__name__}: {error}{how}") from error
    first = next(iter(parts.values())).features
    images = [column for column, kind in first.items() if isinstance(kind, datasets.Image)]
    labels = [column for column, kind in first.items() if isinstance(kind, datasets.ClassLabel)]
    fits = len(images) == len(labels) == 1
    require(fits, f"dataset {name!r}", "one column of images and one of class labels", dict(first))
    (image,), (label,) = images, labels
    reader = Rows({part: rows.cast_column(image, datasets.Image(decode=False)) for part, rows in parts.items()}, image)
    classes = tuple(first[label].names)
    train = "train" if "train" in parts else None
    test = next((part for part in TEST_PARTS if part in parts), None)

    def files(part: str) -> Files:
        numbers = list(parts[part][label])
        names = [f"{part}/{row}" for row in range(len(numbers))]
        known = [place for place, number in enumerate(numbers) if number is not None and number >= 0]
        files = Files(reader, names, numbers).take(known)
        check_classes(f"dataset {name!r}, {part}", classes, files.labels)
        return files

    if train and test:
        return Listing(classes, files(train), files(test))
    alone = train or test or next(iter(parts))
    return split_by_class(f"dataset {name!r}", classes, files(alone), dataset)


@contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """Nothing is asked of the hub: ``local_files_only`` alone still asks it for the dataset's card."""
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
