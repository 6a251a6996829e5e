"""Tests of splitting and shuffling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robbench.data import batches, pixels, split
from robbench.errors import RobbenchError

seeds = st.integers(0, 2**31)


@given(count=st.integers(5, 500), share=st.floats(0.15, 0.85), seed=seeds)
def test_split_is_disjoint_and_complete(count: int, share: float, seed: int) -> None:
    """Every image is either trained or validated on, in the shares asked for."""
    train, validation = split(count, validation=share, seed=seed)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(count))
    assert len(validation) == round(count * share)
    assert train.dtype == validation.dtype == torch.int64


def test_overlapping_split_trains_on_most_validation_images() -> None:
    """The thesis's split trains on about 80 % of the validation images."""
    train, validation = split(10_000, seed=0, overlapping=True)
    assert (len(train), len(validation)) == (8000, 2000)
    assert torch.isin(validation, train).float().mean().item() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("count", "share"), [(10, 0.01), (1, 0.5), (10, 0.99)])
def test_split_refuses_an_empty_part(count: int, share: float) -> None:
    """A split that leaves nothing to train or validate on says so."""
    with pytest.raises(RobbenchError, match="validation: expected a share"):
        split(count, validation=share, seed=0)


@given(count=st.integers(1, 300), size=st.integers(1, 320), seed=seeds)
def test_batches_are_a_permutation(count: int, size: int, seed: int) -> None:
    """An epoch visits every image once, in full batches but for the last, of which none is a single image."""
    parts = batches(count, size, generator=torch.Generator().manual_seed(seed), device="cpu")
    assert sorted(torch.cat(parts).tolist()) == list(range(count))
    assert all(len(part) == size for part in parts[:-1])
    assert len(parts[-1]) <= size + 1
    if min(count, size) > 1:  # a last single image joins the batch before it
        assert all(len(part) > 1 for part in parts)


def test_pixels_span_zero_to_one() -> None:
    """Byte 0 becomes 0, byte 255 becomes 1, and all between are their 255th parts."""
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(pixels(levels), torch.arange(256) / 255)
    assert pixels(levels).dtype == torch.float32
