"""Pictures as data: the same in memory, on disk, and decoded when taken; those that cannot be read; what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import photograph, write_folders
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import robbench.data.pictures
from robbench.data import Data, Images, ImageSource, fetch, load, training_parts
from robbench.data.decoding import look
from robbench.data.loading import list_pictures
from robbench.data.pictures import EncodedImages, Kept, MappedImages, load_pictures
from robbench.errors import RobbenchError
from robbench.spec import Dataset

FORMS: tuple[Kept, ...] = ("memory", "disk", "nowhere")
CPU = torch.device("cpu")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three classes in two parts, 21 pictures to train on and 21 to test on, of mixed sizes."""
    folder = write_folders(tmp_path / "pictures", {"a": 7, "b": 8, "c": 6}, parts=("train", "test"))
    return Dataset(name="mine", folder=str(folder), size=16)


def opened(dataset: Dataset, cache: Path, kept: Kept, said: list[str] | None = None) -> Data:
    """The dataset's pictures in one of the forms."""
    announce = (lambda text: None) if said is None else said.append
    return load_pictures(list_pictures(dataset, cache), dataset, cache, kept=kept, announce=announce)


def read(source: ImageSource, batch: int = 4) -> Images:
    """All of a source, as an epoch reads it."""
    parts = list(fetch(source, torch.split(torch.arange(len(source)), batch)))
    return Images(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def test_pictures_are_those_of_torchvision(dataset: Dataset, tmp_path: Path) -> None:
    """Every test picture is that of ImageFolder with Resize and CenterCrop, in its order and with its label."""
    steps = [v2.Resize(18), v2.CenterCrop(16), v2.PILToTensor()]
    theirs = ImageFolder(tmp_path / "pictures" / "test", v2.Compose(steps))
    ours = read(load(dataset, tmp_path).test)
    assert torch.equal(ours.images, torch.stack([image for image, _ in theirs]))
    assert ours.labels.tolist() == theirs.targets


@pytest.mark.parametrize("limits", [{}, {"train": 11, "test": 5}])
def test_all_three_forms_give_the_same_bits(dataset: Dataset, tmp_path: Path, limits: dict[str, int]) -> None:
    """Images, labels and fingerprints: taken, read batch by batch, cropped to validate, and from a second run."""
    dataset, found = replace(dataset, **limits), []
    for kept in (*FORMS, "disk", "nowhere"):
        data = opened(dataset, tmp_path / "cache", kept)
        found.append((data, *training_parts(dataset, data, CPU)))
    kinds = [type(data.test) for data, _, _ in found]
    assert kinds == [Images, MappedImages, EncodedImages, MappedImages, EncodedImages]
    assert len({data.fingerprint for data, _, _ in found}) == 1
    assert (found[0][0].train.shape, found[0][0].shape) == ((3, 18, 18), (3, 16, 16))
    for number in (1, 2):
        parts = [each[number] for each in found]
        first, index = read(parts[0]), torch.tensor([1, 0])
        assert first.images.shape[2] == (18, 16)[number - 1]
        for part in parts:
            every, few = read(part), part.take(index)
            assert torch.equal(every.images, first.images)
            assert every.labels.tolist() == first.labels.tolist() == part.labels.tolist()
            assert torch.equal(few.images, first.images[index])
            assert every.images.is_contiguous()


def test_a_fingerprint_is_that_of_the_pixels(dataset: Dataset, tmp_path: Path) -> None:
    """Other bytes of the same pixels change nothing; one pixel, a label, another size and another choice do."""
    first = load(dataset, tmp_path).fingerprint
    folder = tmp_path / "pictures" / "train" / "a"
    Image.open(folder / "0.jpg").save(folder / "0.png")
    (folder / "0.jpg").unlink()
    assert load(dataset, tmp_path).fingerprint == first
    pixels = np.array(Image.open(folder / "0.png"))
    pixels[10:20, 10:20] ^= 255
    Image.fromarray(pixels).save(folder / "0.png")
    others = [load(replace(dataset, **changed), tmp_path).fingerprint for changed in ({}, {"size": 15}, {"train": 20})]
    (folder / "1.jpg").rename(tmp_path / "pictures" / "train" / "b" / "10.jpg")
    others.append(load(dataset, tmp_path).fingerprint)
    assert len({first, *others}) == 5


def break_two(folder: Path) -> None:
    """An empty file and one that is no image, in different parts."""
    (folder / "train" / "a" / "3.jpg").write_bytes(b"")
    (folder / "test" / "c" / "0.jpg").write_bytes(b"none")


@pytest.mark.parametrize("kept", FORMS)
def test_broken_pictures_are_named_at_once_or_left_out(dataset: Dataset, tmp_path: Path, kept: Kept) -> None:
    """All of both parts with their reasons, in a second run as well; skipping them says how many."""
    break_two(tmp_path / "pictures")
    listed = (
        r"2 of 42 pictures cannot be used; .*\n  train/a/3.jpg: empty file\n  test/c/0.jpg: no image that Pillow can "
    )
    for _ in range(2):
        with pytest.raises(RobbenchError, match=listed):
            opened(dataset, tmp_path / "cache", kept)
    assert not list((tmp_path / "cache").glob("*uint8"))
    for _ in range(2):
        said: list[str] = []
        data = opened(replace(dataset, skip_broken=True), tmp_path / "cache", kept, said)
        assert data.notes == ("mine: 2 of 42 pictures cannot be used and were left out",)
        assert data.notes[0] in said
        assert (len(data.train), len(data.test)) == (20, 20)
        assert read(data.train).labels.bincount().tolist() == [6, 8, 6]
        assert data.fingerprint == opened(replace(dataset, skip_broken=True), tmp_path, "memory").fingerprint
    with pytest.raises(RobbenchError, match=listed):
        opened(dataset, tmp_path / "cache", kept)


def test_a_class_whose_pictures_are_all_broken_is_named(dataset: Dataset, tmp_path: Path) -> None:
    """Although broken pictures are skipped."""
    for file in (tmp_path / "pictures" / "test" / "b").iterdir():
        file.write_bytes(b"")
    with pytest.raises(RobbenchError, match=r"the test pictures of 'mine': images of each class: .* got 'none of b'"):
        load(replace(dataset, skip_broken=True), tmp_path)


def test_turned_photographs_are_counted(dataset: Dataset, tmp_path: Path) -> None:
    """A note says how many have an EXIF rotation."""
    exif = Image.Exif()
    exif[0x0112] = 8
    photograph(5).save(tmp_path / "pictures" / "test" / "c" / "0.jpg", exif=exif)
    note = "mine: 1 of 42 pictures have an EXIF rotation, not applied, as by ImageFolder"
    assert load(dataset, tmp_path).notes == (note,)


def test_memory_comes_before_the_disk_and_the_disk_before_nothing(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what is free; the size of the cache and where it lies are announced before it is written."""
    needed = 21 * 3 * (18 * 18 + 16 * 16)
    monkeypatch.setattr(robbench.data.pictures, "MEMORY_SHARE", 1.0)
    monkeypatch.setattr(robbench.data.pictures, "DISK_SHARE", 1.0)
    for memory, disk, kind, words in (
        (needed, 0, Images, []),
        (needed - 1, needed, MappedImages, ["42 pictures do not fit into memory; decoding"]),
        (needed - 1, needed - 1, EncodedImages, ["42 pictures, 0.0 GB decoded, fit neither into memory"]),
    ):
        said: list[str] = []
        monkeypatch.setattr(robbench.data.pictures, "free_bytes", lambda device, memory=memory: memory)
        monkeypatch.setattr(robbench.data.pictures, "_free_disk", lambda cache, disk=disk: disk)
        data = load(dataset, tmp_path / kind.__name__, announce=said.append)
        assert type(data.train) is type(data.test) is kind
        assert [text[: len(f"mine: {start}")] for text, start in zip(said, words, strict=True)] == [
            f"mine: {start}" for start in words
        ]


def test_only_the_pictures_that_are_needed_are_decoded(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study's limits choose before anything is decoded; then those that are taken."""
    names: list[str] = []
    monkeypatch.setattr(
        robbench.data.pictures,
        "look",
        lambda reader, form, hashed, name: names.append(name) or look(reader, form, hashed, name),
    )
    data = opened(replace(dataset, train=5, test=4), tmp_path, "nowhere")
    assert len(names) == 9
    names.clear()
    data.test.take(torch.tensor([2, 0]))
    assert len(names) == 2


def test_a_picture_that_changes_during_a_run_is_named(dataset: Dataset, tmp_path: Path) -> None:
    """Taken or read, where each picture is decoded when it is taken."""
    data = opened(dataset, tmp_path, "nowhere")
    (tmp_path / "pictures" / "test" / "a" / "0.jpg").unlink()
    for use in (lambda: data.test.take(torch.tensor([0])), lambda: read(data.test)):
        with pytest.raises(
            RobbenchError, match=r"picture 'test/a/0.jpg' has changed since this run began .*No such file"
        ):
            use()


def test_a_cache_of_other_pictures_is_not_used(dataset: Dataset, tmp_path: Path) -> None:
    """A changed file, or pixels that were cut off, are decoded again."""
    first = opened(dataset, tmp_path / "cache", "disk").fingerprint
    (pixels,) = (tmp_path / "cache").glob("*test.uint8")
    pixels.write_bytes(pixels.read_bytes()[:-1])
    assert read(opened(dataset, tmp_path / "cache", "disk").test).images.any()
    assert pixels.stat().st_size == 21 * 3 * 16 * 16
    photograph(77).save(tmp_path / "pictures" / "test" / "a" / "0.jpg")
    assert opened(dataset, tmp_path / "cache", "disk").fingerprint != first


def test_decoding_draws_no_random_numbers_of_the_training(dataset: Dataset, tmp_path: Path) -> None:
    """Dropout draws the same masks, wherever the pixels are."""
    data = opened(dataset, tmp_path, "nowhere")
    torch.manual_seed(0)
    read(data.test)
    after = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(3))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """In the data folder, where the dataset names none."""
    with pytest.raises(RobbenchError, match=f"dataset 'mine': expected a folder of pictures {tmp_path / 'mine'}"):
        load(Dataset(name="mine", size=8), tmp_path)
