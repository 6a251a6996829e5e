"""How many images a dataset has: of a prepared file, by its name, and of what is asked for."""

import numpy as np
import pytest

from robbench.data.sizes import Sizes, parts, sizes, sizes_of, taken
from robbench.errors import RobbenchError
from robbench.spec import Dataset


def test_a_prepared_file_tells_its_sizes(tmp_path):
    """From its header alone; it comes before what a name says."""
    for name, shape in (("mine", (30, 8, 6)), ("cifar10", (20, 4, 5, 3))):
        np.savez(
            tmp_path / f"{name}.npz", x_train=np.zeros(shape, np.uint8), x_test=np.zeros((7, *shape[1:]), np.uint8)
        )
    assert sizes("mine", tmp_path) == Sizes(train=30, test=7, shape=(1, 8, 6))
    assert sizes("cifar10", tmp_path) == Sizes(train=20, test=7, shape=(3, 4, 5))
    assert sizes("cifar100", tmp_path) == Sizes(train=50_000, test=10_000, shape=(3, 32, 32))


def test_a_dataset_that_is_nowhere_is_an_error(tmp_path):
    """As is a file that is none of ours."""
    with pytest.raises(RobbenchError, match=r"unknown dataset 'other'; expected one of .*other\.npz there"):
        sizes("other", tmp_path)
    (tmp_path / "other.npz").write_text("not an archive")
    with pytest.raises(RobbenchError, match=r"other\.npz: expected a prepared file"):
        sizes("other", tmp_path)


def test_pictures_are_counted_and_not_read(tmp_path):
    """By the folders that hold them; their shape is the one that they are brought to."""
    for part, count in (("train", 3), ("val", 2)):
        for name in ("a", "b"):
            (tmp_path / "mine" / part / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / "mine" / part / name / f"{number}.jpg").write_bytes(b"not read")
    assert sizes_of(Dataset(name="mine", size=20, channels=1), tmp_path) == Sizes(train=6, test=4, shape=(1, 20, 20))
    assert sizes_of(Dataset(name="cifar100"), tmp_path) == sizes("cifar100", tmp_path)


def test_no_more_images_than_there_are():
    """Of a file; drawn ones are as many as are asked for."""
    assert parts(Dataset(name="mnist", train=99_999), 60_000) == (48_000, 12_000)
    assert parts(Dataset(name="mnist", train=100, validation=0.1), 60_000) == (90, 10)
    assert parts(Dataset(name="glyphs10", train=9_000), 4_000) == (7_200, 1_800)
    assert [taken(Dataset(name="mnist"), test, 100) for test in (None, 7, 200)] == [100, 7, 100]
    assert taken(Dataset(name="glyphs10"), 200, 100) == 200
