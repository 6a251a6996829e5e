"""When training stops before its last epoch, and which epoch is kept."""

from __future__ import annotations

from collections.abc import Sequence

from robbench.record import Epoch
from robbench.spec import Recipe


def stops(recipe: Recipe, history: Sequence[Epoch]) -> bool:
    """Whether early stopping ends training after this history: it watches the right images in a moving window."""
    stopping = recipe.early_stopping
    if stopping is None or len(history) < stopping.window:
        return False
    right = [(epoch.robust or epoch.validation).correct for epoch in history]
    figures = [sum(right[end - stopping.window : end]) for end in range(stopping.window, len(right) + 1)]
    return len(figures) - 1 - figures.index(max(figures)) >= stopping.patience


def kept_epoch(recipe: Recipe, history: Sequence[Epoch]) -> int:
    """Number of the epoch whose weights are kept: the first best by the recipe's criterion, or the last."""
    if recipe.kept_epoch == "last":
        return history[-1].epoch
    robust = recipe.kept_epoch == "robust"
    return max(history, key=lambda epoch: (epoch.robust if robust and epoch.robust else epoch.validation).share).epoch
