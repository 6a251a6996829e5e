"""Folders of pictures: which are found, how one part is split, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest
from photographs import photograph, write_folders
from torchvision.datasets import ImageFolder

from robbench.data.folders import Listing, list_folders
from robbench.errors import RobbenchError
from robbench.spec import Dataset

DATASET = Dataset(name="mine", size=16)


def listed(folder: Path, **changes: object) -> Listing:
    """The pictures in a folder."""
    return list_folders(folder, Dataset(name="mine", size=16, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("test", ["test", "val"])
def test_parts_classes_and_order_are_those_of_image_folder(tmp_path: Path, test: str) -> None:
    """With folders in folders, endings in capitals, links, and files that are no pictures."""
    write_folders(tmp_path, {"rose": 3, "aster": 2}, parts=("train", test))
    deeper = tmp_path / "train" / "rose" / "more"
    deeper.mkdir()
    photograph(9).save(deeper / "LOUD.JPG")
    (tmp_path / "elsewhere").mkdir()
    photograph(8).save(tmp_path / "elsewhere" / "8.png")
    (tmp_path / "train" / "aster" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train" / "aster" / "notes.txt").write_text("not a picture")
    found = listed(tmp_path)
    for part, name in ((found.train, "train"), (found.test, test)):
        theirs = ImageFolder(tmp_path / name)
        assert found.classes == tuple(theirs.classes)
        assert [
            (str(tmp_path / name), label) for name, label in zip(part.names, part.labels, strict=True)
        ] == theirs.samples


def test_what_begins_with_a_dot_is_left_out(tmp_path: Path) -> None:
    """What macOS and Jupyter leave behind is neither a class nor a picture."""
    write_folders(tmp_path, {"a": 2, "b": 2, ".ipynb_checkpoints": 1})
    (tmp_path / "a" / "._0.jpg").write_bytes(b"\0")
    (tmp_path / "a" / ".thumbnails").mkdir()
    photograph(1).save(tmp_path / "a" / ".thumbnails" / "0.jpg")
    found = listed(tmp_path)
    assert found.classes == ("a", "b")
    assert sorted([*found.train.names, *found.test.names]) == ["a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg"]


def test_one_part_is_split_class_by_class(tmp_path: Path) -> None:
    """A share of each class, one image at least; the seed alone chooses them."""
    write_folders(tmp_path, {"many": 20, "few": 3})
    found, again, other = listed(tmp_path, held_out=0.3), listed(tmp_path, held_out=0.3), listed(tmp_path, seed=1)
    assert (found.test.labels.count(0), found.test.labels.count(1)) == (1, 6)
    assert sorted([*found.train.names, *found.test.names]) == sorted(
        f"{name}/{number}.jpg" for name, count in (("few", 3), ("many", 20)) for number in range(count)
    )
    assert found == again
    assert (other.test.labels.count(0), other.test.labels.count(1)) == (1, 4)
    assert set(other.test.names) - set(found.test.names)


def emptied(folder: Path) -> Path:
    """Without the images of a class, but for files of another kind."""
    write_folders(folder, {"a": 2, "b": 2})
    for file in (folder / "b").iterdir():
        file.rename(file.with_suffix(".heic"))
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (emptied, r"images of class 'b': expected one or more of \.jpg .*, got 2 of other kinds \(\.heic\)"),
        (lambda folder: write_folders(folder, {"a": 2}), "class folders: expected two or more, got 'a'"),
        (lambda folder: folder, "class folders: expected two or more, got 'none'"),
        (lambda folder: write_folders(folder, {"a": 2, "b": 1}), "class 'b': expected two images or more, .* got 1"),
        (
            lambda folder: write_folders(
                write_folders(folder, {"a": 2, "b": 2}, parts=("train",)), {"a": 2, "c": 2}, parts=("test",)
            ),
            "expected the same classes in train and test, got b only in train, c only in test",
        ),
        (
            lambda folder: write_folders(folder, {"a": 2, "b": 2}, parts=("train",)),
            "expected a folder test or val beside train, got none",
        ),
        (
            lambda folder: write_folders(folder, {"a": 2, "b": 2}, parts=("val",)),
            "expected a folder train beside val, got none",
        ),
    ],
)
def test_folders_that_are_no_dataset(tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
    """One sentence for each."""
    with pytest.raises(RobbenchError, match=message):
        listed(make(tmp_path))
