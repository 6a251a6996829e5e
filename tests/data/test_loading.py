"""Tests of finding a dataset by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robbench.data import Images, draw, load, load_data, prepare, training_parts
from robbench.errors import RobbenchError
from robbench.spec import Dataset

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def own(arrays: Make, tmp_path: Path) -> Path:
    """A data folder with ``own.npz``, 12 training and 7 test images."""
    np.savez(tmp_path / "own.npz", **arrays())
    return tmp_path


def test_prepared_file_is_a_dataset_by_its_name(own: Path, arrays: Make) -> None:
    """Without numbers the whole file is loaded, in its order."""
    data = load(Dataset(name="own"), own)
    assert (data.name, data.shape) == ("own", (1, 28, 28))
    assert np.array_equal(data.train.images[:, 0].numpy(), arrays()["x_train"])
    assert np.array_equal(data.test.labels.numpy(), arrays()["y_test"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(train=st.integers(1, 12), test=st.integers(1, 7), seed=st.integers(0, 1000))
def test_subset_is_random_and_nested(train: int, test: int, seed: int, own: Path) -> None:
    """A subset has the size asked for, no image twice, and their labels; a smaller one lies within a larger one."""

    def rows(images: torch.Tensor) -> set[bytes]:
        return {image.numpy().tobytes() for image in images}

    data = load(Dataset(name="own", train=train, test=test, seed=seed), own)
    assert (len(data.train), len(data.test)) == (train, test)
    assert len(rows(data.train.images)) == train
    again = load(Dataset(name="own", train=train, test=test, seed=seed), own)
    assert again.fingerprint == data.fingerprint
    larger = load(Dataset(name="own", train=train + 1, seed=seed), own)
    assert rows(data.train.images) <= rows(larger.train.images)
    whole = load(Dataset(name="own"), own).train
    labels = {image.numpy().tobytes(): label for image, label in zip(whole.images, whole.labels.tolist(), strict=True)}
    assert [labels[image.numpy().tobytes()] for image in data.train.images] == data.train.labels.tolist()


@pytest.mark.parametrize("name", ["", "..", "../own", "a/b", "/own"])
def test_names_cannot_leave_the_folder(name: str, own: Path) -> None:
    """A name with a folder in it is refused before anything is opened."""
    with pytest.raises(RobbenchError, match="dataset: expected a plain file name"):
        prepare(name, folder=own / "inner")


def test_torchvision_set_not_on_disk(tmp_path: Path) -> None:
    """The error says where the dataset would be and both ways to get it."""
    words = r"'cifar10' is not on disk: .*cifar10\.npz.*cifar-10-batches-py.*--robbench-download.*x_train, y_train"
    with pytest.raises(RobbenchError, match=words):
        load(Dataset(name="cifar10"), tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(("name", "near"), [("emnits", "emnist"), ("onw", "own")])
def test_unknown_name(name: str, near: str, own: Path) -> None:
    """The nearest name may be a known one or a file's, and torchvision is not offered."""
    expected = f"^unknown dataset '{name}'; .*did you mean '{near}'.*put .*{name}.npz there with the arrays"
    with pytest.raises(RobbenchError, match=expected) as caught:
        load(Dataset(name=name), own, download=True)
    assert "--robbench-download" not in str(caught.value)


def test_stored_images_are_transposed(own: Path) -> None:
    """The thesis's orientation swaps height and width, whatever the name: a stand-in for EMNIST may have any."""
    upright, stored = (load(Dataset(name="own", orientation=way), own) for way in ("upright", "stored"))
    for there, here in ((upright.train, stored.train), (upright.test, stored.test)):
        assert torch.equal(here.images, there.images.transpose(2, 3))
        assert torch.equal(here.labels, there.labels)


@pytest.mark.parametrize(("name", "counts"), [("glyphs10", (4000, 1000)), ("glyphs47", (6000, 1000))])
def test_glyph_counts(name: str, counts: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Drawn datasets have their usual size unless a number is given."""
    asked: list[tuple[object, ...]] = []

    def few(*arguments: object) -> Images:
        asked.append(arguments)
        return draw(name, 2, 0)

    monkeypatch.setattr("robbench.data.glyphs.draw", few)
    load(Dataset(name=name), tmp_path)
    load(Dataset(name=name, train=9, seed=5), tmp_path)
    assert asked == [(name, counts[0], 0), (name, counts[1], 1), (name, 9, 10), (name, counts[1], 11)]


def test_many_drawn_images_are_drawn_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Few, or where the kept file is damaged, anew."""
    many, few = Dataset(name="glyphs10", train=900, test=100), Dataset(name="glyphs10", train=60, test=20)
    first, drawn = load(many, tmp_path), draw("glyphs10", 60, 0)
    monkeypatch.setattr("robbench.data.glyphs.draw", lambda *arguments: drawn)
    again = load(many, tmp_path)
    assert again.fingerprint == first.fingerprint
    assert again.classes == first.classes
    load(few, tmp_path)
    (kept,) = tmp_path.rglob("*.npz")
    kept.write_bytes(b"damaged")
    assert load(many, tmp_path).fingerprint != first.fingerprint


def test_drawn_parts_are_independent(tmp_path: Path) -> None:
    """Training and test images are drawn with different seeds, and every seed draws others."""
    first, second = (load(Dataset(name="glyphs10", train=60, test=60, seed=seed), tmp_path) for seed in (0, 1))
    parts = [part.images for data in (first, second) for part in (data.train, data.test)]
    assert len({image.numpy().tobytes() for image in torch.cat(parts)}) == 240
    assert first.classes == tuple("0123456789")
    assert first.shape == (1, 28, 28)


def test_prepare_names_the_file(own: Path) -> None:
    """A prepared file that is there is checked and left as it is; a drawn dataset needs none."""
    before = (own / "own.npz").read_bytes()
    assert prepare("own", folder=own) == own / "own.npz"
    assert (own / "own.npz").read_bytes() == before
    with pytest.raises(RobbenchError, match="drawn when used, got 'glyphs10'"):
        prepare("glyphs10", folder=own)


def test_a_spec_is_loaded_once(own: Path) -> None:
    """The next stage gets the same images, of which it takes the parts of the spec on its device."""
    spec = Dataset(name="own", train=10, validation=0.3, seed=4)
    data = load_data(spec, own, download=False)
    assert load_data(spec, own, download=False) is data
    train, validation = training_parts(spec, data, torch.device("cpu"))
    assert (len(train), len(validation)) == (7, 3)
    rows = [image.numpy().tobytes() for part in (train, validation) for image in part.images]
    assert sorted(rows) == sorted(image.numpy().tobytes() for image in data.train.images)


def test_a_data_set_too_small_to_be_split_is_named(own: Path) -> None:
    """A study has several; the share alone would not tell which."""
    spec = Dataset(name="own", train=1)
    expected = "^dataset 'own' validation: expected a share that leaves both parts of 1 images non-empty, got 0.2$"
    with pytest.raises(RobbenchError, match=expected):
        training_parts(spec, load_data(spec, own, download=False), torch.device("cpu"))
