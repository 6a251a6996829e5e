"""Image containers: what they take, subsets of what is read on request, and their fingerprints."""

from __future__ import annotations

from threading import Thread, current_thread, main_thread

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robbench.data import Data, Images, fetch, subset
from robbench.errors import RobbenchError


def numbered(count: int) -> Images:
    """Images of one pixel, each its own number and label."""
    return Images(torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1), torch.arange(count))


class Read:
    """A source that reads its images when they are taken, and notes in which thread."""

    def __init__(self, images: Images) -> None:
        self._images, self.threads = images, list[Thread]()
        self.labels, self.shape, self.fingerprint = images.labels, images.shape, images.fingerprint

    def __len__(self) -> int:
        return len(self._images)

    def take(self, index: torch.Tensor) -> Images:
        """Some of the images."""
        self.threads.append(current_thread())
        return self._images.take(index)

    def to(self, device: torch.device | str) -> Read:
        """The source itself."""
        return self


@given(st.data())
def test_a_subset_of_a_subset_has_its_images_and_labels(data: st.DataObject) -> None:
    """In the order of the indices, whether the source lies in memory or is read."""
    for source in (numbered(9), Read(numbered(9))):
        places = st.lists(st.integers(0, 8), min_size=1, max_size=12)
        outer = data.draw(places)
        inner = data.draw(st.lists(st.integers(0, len(outer) - 1), min_size=1))
        chosen = subset(subset(source, torch.tensor(outer)), torch.tensor(inner)).to("cpu")
        taken = chosen.take(torch.arange(len(chosen)))
        expected = [outer[place] for place in inner]
        assert taken.images.flatten().tolist() == taken.labels.tolist() == chosen.labels.tolist() == expected
        assert (len(chosen), chosen.shape) == (len(inner), (1, 1, 1))


def test_images_are_read_one_batch_ahead_in_a_thread() -> None:
    """When a batch is in use the next one is asked for; images in memory are taken by the caller."""
    source = Read(numbered(7))
    batches = fetch(source, torch.split(torch.arange(7), 3))
    found = [(batch.labels.tolist(), len(source.threads)) for batch in batches]
    assert [labels for labels, _ in found] == [[0, 1, 2], [3, 4, 5], [6]]
    assert main_thread() not in source.threads
    assert [batch.labels.tolist() for batch in fetch(numbered(7), [torch.tensor([4, 0])])] == [[4, 0]]


def test_fingerprints_differ_with_images_labels_and_choice() -> None:
    """Of a resident set, of a subset that is read, and of a dataset, whose classes count, too."""
    plain, few = numbered(4), torch.tensor([0, 1])
    brighter = Images(plain.images + 1, plain.labels)
    other = Images(plain.images, plain.labels.flip(0))
    parts = [plain, brighter, other, subset(Read(plain), few), subset(Read(plain), few.flip(0)), subset(plain, few)]
    found = [part.fingerprint for part in parts]
    found += [Data("name", part, plain, ("a", "b")).fingerprint for part in (plain, brighter, other, Read(brighter))]
    found += [Data("name", plain, plain, ("a", "c")).fingerprint]
    assert len(set(found)) == len(found)
    assert found[0] == numbered(4).fingerprint


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            torch.zeros(2, 1, 4, 4).int(),
            torch.zeros(2).long(),
            r"images: expected \(N, C, H, W\) uint8 or floats, got .*int32",
        ),
        (torch.zeros(2, 4, 4).byte(), torch.zeros(2).long(), r"images: .*got '\(2, 4, 4\) uint8'"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(3).long(), r"labels: expected \(2,\) int64, got '\(3,\) int64'"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(2).int(), r"labels: .*int32"),
    ],
)
def test_wrong_tensors(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    """A tensor of another dtype or shape is named."""
    with pytest.raises(RobbenchError, match=message):
        Images(images, labels)
