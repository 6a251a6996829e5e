"""The reference search: image by image what the published sequential one finds."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import SHAPE, linear, linear_case, problem
from searches import oracle
from torch import nn

import robbench.estimation.problem
from robbench.attacks import pgd
from robbench.estimation.estimators import estimate_pstar
from robbench.record import MISCLASSIFIED
from robbench.spec import PGD, EpsilonGrid

SEEDS = st.integers(0, 10_000)
GRID = EpsilonGrid(stop=0.16, step=0.005).values


def published_pstar(model, image, label, grid, steps):
    """ADA-VERONA's sequential search for one image: index of p*, len(grid) if never fooled, MISCLASSIFIED if misclassified."""
    with torch.no_grad():
        if model(image[None]).argmax().item() != label:
            return MISCLASSIFIED
    first, last, smallest = 0, len(grid) - 1, len(grid)
    while first <= last:
        middle = (first + last) // 2
        epsilon = grid[middle]
        adversarial = image[None].clone()
        for _ in range(steps):
            adversarial.requires_grad_()
            loss = nn.CrossEntropyLoss()(model(adversarial), torch.tensor([label]))
            (gradient,) = torch.autograd.grad(loss, adversarial)
            stepped = adversarial.detach() + epsilon / steps * gradient.sign()
            delta = torch.clamp(stepped - image, min=-epsilon, max=epsilon)
            adversarial = torch.clamp(image + delta, min=0, max=1)
        with torch.no_grad():
            fooled = model(adversarial).argmax().item() != label
        if fooled:
            smallest, last = middle, middle - 1
        else:
            first = middle + 1
    return smallest


@pytest.mark.parametrize(
    ("dtype", "count", "steps", "batch_size"), [(torch.float64, 120, 8, 64), (torch.float32, 30, 40, 7)]
)
def test_the_search_returns_image_by_image_what_the_published_one_does(trained, dtype, count, steps, batch_size):
    """Binary search, one image at a time, written out above, finds the same p* for every one of the images."""
    images, labels = problem(count, seed=steps + count)
    model = copy.deepcopy(trained).to(dtype)
    pixels = images.to(dtype) / 255
    given = images if dtype == torch.float32 else pixels
    found = estimate_pstar(model, given, labels, GRID, oracle(steps), batch_size=batch_size)
    model.eval()
    pairs = zip(pixels, labels.tolist(), strict=True)
    expected = [published_pstar(model, image, label, GRID, steps) for image, label in pairs]
    assert found.pstar.tolist() == expected
    assert MISCLASSIFIED in expected
    assert len(set(expected)) > 8


@given(SEEDS, st.integers(2, 6), st.integers(1, 8))
def test_a_larger_grid_step_never_finds_a_smaller_pstar(seed, factor, coarse_values):
    """On a grid of every n-th radius, a linear model's p* is as large or larger, by less than one of its steps."""
    model, images, labels, _ = linear_case(seed)
    coarse = EpsilonGrid(stop=0.006 * factor * coarse_values, step=0.006 * factor).values
    fine = EpsilonGrid(stop=0.006 * factor * coarse_values, step=0.006).values
    assert set(coarse) <= set(fine)

    def pstar(grid):
        found = estimate_pstar(model, images, labels, grid, oracle(2))
        return [[*grid, math.inf][place] for place in found.pstar.tolist()]

    for large, small in zip(pstar(coarse), pstar(fine), strict=True):
        assert large >= small
        assert math.isinf(small) or large - small < 0.006 * factor - 1e-9


def test_a_grid_keeps_its_double_precision():
    """A margin just below 0.7, which in float32 is smaller still: the radius 0.7 fools, and not only the next one."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0 + 36 * (0.7 - 5e-9))
    images, labels = torch.full((1, *SHAPE), 0.5, dtype=torch.float64), torch.tensor([0])
    wide = PGD(steps=1, random_start=False, box=(-2.5, 2.5))
    assert estimate_pstar(model, images, labels, [0.0, 0.7, 1.0], wide).pstar.tolist() == [1]


def test_a_step_is_the_radius_divided_before_it_is_rounded(monkeypatch):
    """As in the published search: 0.04 ÷ 3 of float64 is another float32 than float32's 0.04 ÷ 3."""
    grid, steps = [0.02, 0.04, 0.08], []
    before, after = (torch.tensor(grid, dtype=torch.float64) / 3).float(), torch.tensor(grid) / 3
    assert not set(before.tolist()) & set(after.tolist())

    def spy(*given, step_size, **options):
        steps.append(step_size)
        return pgd(*given, step_size=step_size, **options)

    monkeypatch.setattr(robbench.estimation.problem, "pgd", spy)
    images, labels = torch.full((4, *SHAPE), 0.5), torch.zeros(4, dtype=torch.int64)
    estimate_pstar(linear(torch.ones(36, dtype=torch.float64), bias=-16.0).float(), images, labels, grid, oracle(3))
    tried = {step for batch in steps for step in batch.tolist()}
    assert tried
    assert tried <= set(before.tolist())
