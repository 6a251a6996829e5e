"""Tests of the drawn characters."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robbench.data import GLYPHS, draw, glyphs


@settings(max_examples=8, deadline=None)
@given(count=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_drawing_repeats(count: int, seed: int) -> None:
    """The same name, count and seed give the same images and labels, on one thread and on two."""
    threads, drawn = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            drawn.append(draw("glyphs47", count, seed))
    finally:
        torch.set_num_threads(threads)
    assert drawn[0].fingerprint == drawn[1].fingerprint
    assert drawn[0].images.shape == (count, 1, 28, 28)


@pytest.mark.parametrize("name", GLYPHS)
def test_classes_are_balanced(name: str) -> None:
    """No class has two images more than another."""
    counts = torch.bincount(draw(name, 500, 0).labels, minlength=len(GLYPHS[name]))
    assert counts.max() - counts.min() <= 1
    assert len(counts) == len(GLYPHS[name])


def test_characters_are_bright_whole_and_inside() -> None:
    """Ink is bright on dark, and none of it touches the image's edge: what lies there is noise."""
    images = draw("glyphs47", 1000, 0).images.float()[:, 0] / 255
    edge = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    assert edge.amax() < 0.65
    assert edge.mean() < 0.06
    brightest = images.flatten(1).topk(20).values.mean(1)
    assert brightest.min() > 0.5
    assert 0.1 < images.mean() < 0.3


def test_templates_tell_the_digits_apart() -> None:
    """The nearest class mean names most digits, far more than chance and not all."""
    train, test = draw("glyphs10", 1000, 0), draw("glyphs10", 500, 1)
    means = torch.stack([train.images[train.labels == c].float().mean(0).flatten() for c in range(10)])
    right = (torch.cdist(test.images.float().flatten(1), means).argmin(1) == test.labels).float().mean()
    assert 0.4 < right < 0.97


def test_every_font_draws_every_character() -> None:
    """Every character is as long as any other on its longest side, and no two of a font look the same."""
    fields, halves = glyphs._distance_fields(GLYPHS["glyphs47"])
    assert fields.shape == (21, 47, 96, 96)
    assert torch.all((halves.amax(2) - 30).abs() <= 1)
    for font in fields > 0:
        assert len({character.numpy().tobytes() for character in font}) == 47
