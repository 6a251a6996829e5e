"""Tests of augmenting: shifts of padded images, and resized crops as torchvision's."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import pad
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from robbench.data import augment, centre
from robbench.data.augmentation import crops

seeds = st.integers(0, 2**31)


def every_shift(image: torch.Tensor) -> list[torch.Tensor]:
    """All 162 crops of one padded image (C, H, W), by plain loops."""
    _, height, width = image.shape
    padded = pad(image, (4, 4, 4, 4))
    crops = [padded[:, y : y + height, x : x + width] for y in range(9) for x in range(9)]
    return [version for crop in crops for version in (crop, crop.flip(2))]


@given(
    count=st.integers(1, 4), channels=st.integers(1, 3), height=st.integers(1, 8), width=st.integers(1, 8), seed=seeds
)
def test_augmented_images_are_shifts(count: int, channels: int, height: int, width: int, seed: int) -> None:
    """Every augmented image is one of the 81 crops of the padded image, as it is or mirrored."""
    images = torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed))
    result = augment(images, "crop-flip", torch.Generator().manual_seed(seed))
    assert result.shape == images.shape
    assert result.dtype == images.dtype
    for image, augmented in zip(images, result, strict=True):
        assert any(torch.equal(augmented, version) for version in every_shift(image))


def test_augmentation_uses_every_shift() -> None:
    """Over many copies of an image all 162 versions come up, each about as often as any other."""
    image = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(0))
    copies = augment(image.expand(16_200, 3, 6, 6), "crop-flip", torch.Generator().manual_seed(1))
    _, counts = torch.unique(copies.flatten(1), dim=0, return_counts=True)
    assert len(counts) == 162
    assert counts.min() > 50
    assert counts.max() < 150


def test_no_augmentation_is_the_identity() -> None:
    """Kind ``none`` returns the images."""
    images = torch.rand(2, 1, 4, 4)
    assert augment(images, "none", torch.Generator()) is images


def drawn(count: int, height: int, width: int, area: float = 0.08, seed: int = 0) -> torch.Tensor:
    """Crops of so many images."""
    return crops(count, height, width, area, torch.Generator().manual_seed(seed))


@given(height=st.integers(1, 60), width=st.integers(1, 60), area=st.floats(0.05, 1.0), seed=seeds)
def test_crops_lie_in_the_image(height: int, width: int, area: float, seed: int) -> None:
    """Of images of any shape; those where no drawn crop fits are kept whole."""
    top, left, tall, wide = drawn(50, height, width, area, seed).T
    assert bool((torch.stack([top, left]) >= 0).all() & (torch.stack([tall, wide]) > 0).all())
    assert bool(((top + tall <= height) & (left + wide <= width)).all())


@pytest.mark.parametrize(("area", "shape"), [(0.08, (256, 256)), (0.5, (256, 256)), (0.08, (64, 96))])
def test_crops_are_drawn_as_torchvision_draws_them(area: float, shape: tuple[int, int]) -> None:
    """Mean and spread of top, left, height and width over many images, within five standard errors."""
    transform, image = v2.RandomResizedCrop(32, scale=(area, 1.0)), torch.zeros(3, *shape)
    torch.manual_seed(0)
    theirs = torch.tensor(
        [
            [each[name] for name in ("top", "left", "height", "width")]
            for each in (transform.make_params([image]) for _ in range(4000))
        ]
    ).double()
    ours = drawn(40_000, *shape, area).double()
    error = theirs.std(0) / math.sqrt(len(theirs))
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 5 * error).all()
    assert (ours.std(0) / theirs.std(0) - 1).abs().max() < 0.06


def test_a_resized_crop_is_torchvisions_of_its_own_box() -> None:
    """Each image has a box and a mirror of its own; float pixels stay in [0, 1]."""
    images = torch.rand(8, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    boxes, found = (
        drawn(8, 40, 40, seed=5),
        augment(images, "resized-crop-flip", torch.Generator().manual_seed(5), side=24),
    )
    assert found.shape == (8, 3, 24, 24)
    mirrored = []
    for image, box, got in zip(images, boxes.tolist(), found, strict=True):
        expected = F.resized_crop(image, *box, [24, 24])
        mirrored.append(torch.equal(got, expected.flip(2)))
        assert mirrored[-1] or torch.equal(got, expected)
    assert set(mirrored) == {True, False}


def test_the_whole_area_is_the_image_itself() -> None:
    """A crop of the whole of a square image changes its size alone, or a little of its shape."""
    assert drawn(1000, 32, 32, area=1.0)[:, 2:].min() >= 27  # √(3 ÷ 4) of the side


@given(side=st.integers(1, 9), height=st.integers(9, 14), width=st.integers(9, 14))
def test_the_centre_is_torchvisions(side: int, height: int, width: int) -> None:
    """Of images of any shape."""
    images = torch.arange(height * width).view(1, 1, height, width)
    assert torch.equal(centre(images, side), F.center_crop(images, [side, side]))
