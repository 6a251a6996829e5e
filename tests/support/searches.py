"""What tests of the searches share: the published attack in fewer steps, the fast search, and the descent alone."""

from __future__ import annotations

import torch
from networks import Counting

from robbench.estimation.estimators import estimate_pstar
from robbench.estimation.shrinking_ball import Descent, descend
from robbench.spec import PGD, EpsilonGrid

GRID = EpsilonGrid(stop=0.3, step=0.005).values
BOX = (0.0, 1.0)


def oracle(steps, box=BOX):
    """The published attack with fewer steps than its 40; the fast search needs it for its box and for what it never fools."""
    return PGD(steps=steps, random_start=False, box=box)


def fast(model, images, labels, grid=GRID, attack=None, **options):
    """The fast search."""
    return estimate_pstar(model, images, labels, grid, attack or oracle(2), search="fast", **options)


def results(search):
    """What a search found, image by image."""
    return [tensor.tolist() for tensor in (search.pstar, search.first, search.last)]


def run_descent(model, images, labels, grid=GRID, *, box=BOX, size=64):
    """The descent alone: p* of every image by place in the grid, and the passes of every step."""
    state, passes = Descent(waiting=torch.arange(len(images))), []

    def take(index):
        assert len(index) > 0
        return images[index], labels[index]

    found = descend(
        Counting(model).eval(),
        take,
        state,
        torch.tensor(grid, dtype=torch.float64),
        box=box,
        size=size,
        device=images.device,
        on_step=passes.append,
    )
    pairs = [pair for index, place, _ in found for pair in zip(index.tolist(), place.tolist(), strict=True)]
    assert sorted(index for index, _ in pairs) == list(range(len(images)))
    assert (len(state.waiting), state.slots) == (0, None)
    assert all(isinstance(count, int) for count in passes)
    return [place for _, place in sorted(pairs)], passes
