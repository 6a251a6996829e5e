"""Pictures in tar archives, as webdataset has them."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pytest
import torch
from photographs import photograph

from robbench.data import load
from robbench.data.loading import list_pictures
from robbench.data.pictures import load_pictures
from robbench.errors import RobbenchError
from robbench.spec import Dataset


def write_shard(path: Path, labels: Sequence[str | None], first: int = 0) -> None:
    """Photographs numbered from the first, each with its class in a text file, unless that is None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, label in enumerate(labels, first):
            image = BytesIO()
            photograph(number).save(image, "png")
            files = {f"{number:03}.png": image.getvalue(), f"{number:03}.json": b"{}"}
            files |= {} if label is None else {f"{number:03}.cls": f"{label}\n".encode()}
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, BytesIO(data))


@pytest.mark.parametrize(
    "names", [("train-0.tar", "train-1.tar", "val-0.tar"), ("train/0.tar", "train/1.tar", "test/0.tar")]
)
def test_numbered_classes_in_parts(tmp_path: Path, names: Sequence[str]) -> None:
    """Their names come from a file beside the archives; each picture is that of its place in its archive."""
    for part, name in enumerate(names):
        write_shard(tmp_path / name, ["0", "2", "01", "2"], 10 * part)
    dataset = Dataset(name="mine", folder=str(tmp_path), size=30)
    assert load(dataset, tmp_path / "data").classes == ("0", "1", "2")
    (tmp_path / "classes.txt").write_text("rose\naster\nlily\n")
    data = load(dataset, tmp_path / "data")
    assert data.classes == ("rose", "aster", "lily")
    assert data.train.labels.tolist() == [0, 2, 1, 2] * 2
    whole = load(Dataset(name="mine", folder=str(tmp_path), size=30, augmentation="none"), tmp_path / "data")
    expected = torch.frombuffer(bytearray(photograph(11).crop((5, 0, 35, 30)).tobytes()), dtype=torch.uint8)
    assert torch.equal(whole.train.take(torch.tensor([5])).images[0].permute(1, 2, 0).flatten(), expected)
    assert (
        load_pictures(list_pictures(dataset, tmp_path), dataset, tmp_path, kept="nowhere").fingerprint
        == data.fingerprint
    )


def test_named_classes_in_one_part_are_split(tmp_path: Path) -> None:
    """Archives whose names say no part are split class by class."""
    write_shard(tmp_path / "a.tar", ["rose", "aster"] * 5)
    data = load(Dataset(name="mine", folder=str(tmp_path), size=8), tmp_path / "data")
    assert data.classes == ("aster", "rose")
    assert data.test.labels.bincount().tolist() == [1, 1]
    assert data.train.labels.bincount().tolist() == [4, 4]


@pytest.mark.parametrize(
    ("labels", "name", "message"),
    [
        (["0", None], "a.tar", "got 1 images without a class, as a.tar/001.png"),
        ([], "a.tar", "got no image"),
        (["0", "1"], "train.tar", r"expected archives of a part test or val beside train\.tar, got none"),
        (["0", "0", "2", "2"], "a.tar", "images of each class: expected one or more, got 'none of 1'"),
    ],
)
def test_archives_that_are_no_dataset(tmp_path: Path, labels: Sequence[str | None], name: str, message: str) -> None:
    """One sentence for each."""
    write_shard(tmp_path / name, labels)
    with pytest.raises(RobbenchError, match=message):
        load(Dataset(name="mine", folder=str(tmp_path), size=8), tmp_path / "data")


def test_a_damaged_or_compressed_archive_is_named(tmp_path: Path) -> None:
    """Pictures are read from the middle of an archive, which compression does not allow."""
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    with pytest.raises(RobbenchError, match=r"a\.tar: expected webdataset's shards: uncompressed tar archives"):
        load(Dataset(name="mine", folder=str(tmp_path), size=8), tmp_path / "data")
