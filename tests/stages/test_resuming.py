"""A search goes on only from what a search has left: anything else that a checkpoint may hold is refused."""

from __future__ import annotations

import copy
import re
from functools import reduce

import pytest
import torch
from networks import linear_case

from robbench.estimation.fixed_radii import FinalTest
from robbench.estimation.search import estimate_pstar
from robbench.spec import PGD, EpsilonGrid
from robbench.stages.resuming import check_search_fits

GRID = EpsilonGrid(stop=0.1, step=0.01).values


def put(name, value):
    """A change of the first place of a tensor; ``name`` is its path from the search."""

    def change(search, testing):
        reduce(getattr, name.split("."), search)[0] = value

    return change


def put_all(name, make):
    """A change of a whole tensor; ``name`` is its path from the search."""
    *inner, last = name.split(".")

    def change(search, testing):
        owner = reduce(getattr, inner, search)
        setattr(owner, last, make(getattr(owner, last)))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *((put_all(name, make), f"{name}: expected 12 places from")
          for name in ("first", "last", "pstar")
          for make in (lambda tensor: tensor[:6], lambda tensor: tensor.repeat(2), torch.Tensor.double)),
        (put("first", 12), "first: expected 12 places from 0 to 11"),
        (put("first", -1), "first: expected 12 places from 0 to 11"),
        (put("last", 11), "last: expected 12 places from -1 to 10"),
        (put("pstar", 12), "pstar: expected 12 places from -1 to 11"),
        (put_all("adversarials", lambda tensor: tensor[1:]), "adversarials: expected (12, 1, 6, 6), got (11, 1, 6, 6)"),
        (put("descent.waiting", 12), "waiting: expected 8 places from 0 to 11"),
        (put("descent.waiting", -1), "waiting: expected 8 places from 0 to 11"),
        (put("descent.slots.index", 12), "slots: expected 4 places from -1 to 11"),
        *((put_all(f"descent.slots.{name}", lambda tensor: tensor[..., 1:]),
           "slots: expected images (4, 1, 6, 6), got (4, 1, 6, 5)")
          for name in ("adversarial", "best_image", "originals")),
        (lambda search, testing: testing.fooled.extend([1, 2]), "testing: expected at most 2 attacks on 12 images"),
        (lambda search, testing: testing.fooled.append(-1), "testing: expected at most 2 attacks on 12 images"),
        (lambda search, testing: testing.fooled.append(13), "testing: expected at most 2 attacks on 12 images"),
        (lambda search, testing: setattr(testing, "start", 13), "testing: expected at most 2 attacks on 12 images"),
    ],
)  # fmt: skip
def test_a_search_of_other_images_grids_or_attacks_is_refused(change, message):
    """More of them, or fewer, or places that there are none of."""
    model, images, labels, _ = linear_case(1)
    found = []
    estimate_pstar(
        model,
        images,
        labels,
        GRID,
        PGD(steps=3, random_start=False),
        search="fast",
        batch_size=4,
        keep_adversarials=True,
        on_progress=lambda state: found.append(copy.deepcopy(state)),
    )
    for state in found:
        check_search_fits(state, FinalTest([3], 8), images, len(GRID), 2)
    search, testing = found[0], FinalTest([3], 8)
    change(search, testing)
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        check_search_fits(search, testing, images, len(GRID), 2)
