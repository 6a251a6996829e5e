"""Tests of the image containers."""

from __future__ import annotations

import pytest
import torch

from robbench.data import Images
from robbench.errors import RobbenchError


def test_take_keeps_images_with_their_labels() -> None:
    """Images are taken in the order of the indices, each with its label."""
    images = Images(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1), torch.arange(5))
    taken = images.take(torch.tensor([4, 0, 0]))
    assert taken.labels.tolist() == taken.images.flatten().tolist() == [4, 0, 0]
    assert (len(images), len(taken)) == (5, 3)
    assert torch.equal(taken.to("cpu").labels, taken.labels)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2).long(), r"images: expected \(N, C, H, W\) uint8, got .*float32"),
        (torch.zeros(2, 4, 4).byte(), torch.zeros(2).long(), r"images: .*got '\(2, 4, 4\) uint8'"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(3).long(), r"labels: expected \(2,\) int64, got '\(3,\) int64'"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(2).int(), r"labels: .*int32"),
    ],
)
def test_wrong_tensors(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    """A tensor of another dtype or shape is named."""
    with pytest.raises(RobbenchError, match=message):
        Images(images, labels)
