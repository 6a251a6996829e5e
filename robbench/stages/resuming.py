"""Whether a p* search can go on from a state that was read: all of it is there, and fits what is to be done."""

from __future__ import annotations

import torch
from torch import Tensor

from robbench.estimation.fixed_radii import FinalTest
from robbench.estimation.search import Search
from robbench.record import MISCLASSIFIED


def check_search_fits(search: Search, testing: FinalTest, images: Tensor, values: int, attacks: int) -> None:
    """Compare the counts and places of a search's state, and of the final test after it, with what they are of.

    Args:
        search: what was read.
        testing: the same.
        images: (N, C, H, W), of which p* is estimated.
        values: of the grid.
        attacks: of the final test.

    Raises:
        ValueError: there are more or fewer of something than of these, or it is beyond them; names the first.
    """
    count = len(images)
    _check_places("first", search.first, count, 0, values)
    _check_places("last", search.last, count, -1, values - 1)
    _check_places("pstar", search.pstar, count, MISCLASSIFIED, values)
    if search.adversarials is not None and search.adversarials.shape != images.shape:
        raise ValueError(f"adversarials: expected {tuple(images.shape)}, got {tuple(search.adversarials.shape)}")
    if search.descent is not None:
        waiting, slots = search.descent.waiting, search.descent.slots
        _check_places("waiting", waiting, len(waiting), 0, count - 1)
        if slots is not None:
            _check_places("slots", slots.index, len(slots.labels), -1, count - 1)
            expected = (len(slots.labels), *images.shape[1:])
            if got := next((each.shape for each in slots.images if each.shape != expected), None):
                raise ValueError(f"slots: expected images {expected}, got {tuple(got)}")
    attacked = int((search.pstar != MISCLASSIFIED).sum())
    if len(testing.fooled) > attacks or not all(0 <= number <= attacked for number in [testing.start, *testing.fooled]):
        raise ValueError(f"testing: expected at most {attacks} attacks on {attacked} images, got {testing}")


def _check_places(part: str, places: Tensor, count: int, least: int, most: int) -> None:
    if (places.dtype, places.shape) != (torch.int64, (count,)) or ((places < least) | (places > most)).any():
        raise ValueError(f"{part}: expected {count} places from {least} to {most}, got {places.tolist()[:8]}…")
