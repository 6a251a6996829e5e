"""What a recipe decides by epoch: the rate, the attack's radius, when training stops, which epoch is kept. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from robbench.record import Epoch
from robbench.spec import EarlyStopping, MultiStepLR, OneCycle, Recipe, StepLR


def learning_rate(recipe: Recipe, position: float, updates: int) -> float:
    """The rate at a position in epochs (2.5: half way through the third), as torch's schedulers of the same names."""
    schedule, epoch = recipe.schedule, math.floor(position + 1e-9)
    if isinstance(schedule, StepLR):
        return recipe.learning_rate * schedule.gamma ** (epoch // schedule.step)
    if isinstance(schedule, MultiStepLR):
        return recipe.learning_rate * schedule.gamma ** sum(epoch >= milestone for milestone in schedule.milestones)
    if isinstance(schedule, OneCycle):
        done = (position * updates + 1) / (recipe.epochs * updates + 1)
        share = done / schedule.warm_up if done < schedule.warm_up else (1 - done) / (1 - schedule.warm_up)
        return recipe.learning_rate * share
    return recipe.learning_rate


def ramp(recipe: Recipe, position: float) -> float:
    """Share of the attack's radius in use at a position in epochs."""
    return min(1.0, position / recipe.ramp_epochs) if recipe.ramp_epochs else 1.0


def watched(recipe: Recipe, history: Sequence[Epoch], stopping: EarlyStopping) -> list[float]:
    """The figures that early stopping looks at: a moving average, from the epoch on at which its window is full."""
    # Counts are summed, not shares: averages of as many right images must be equal to the last bit.
    counts = [epoch.robust or epoch.validation for epoch in history]
    windows = [counts[end - stopping.window : end] for end in range(stopping.window, len(counts) + 1)]
    return [sum(count.correct for count in window) / sum(count.total for count in window) for window in windows]


def stops(recipe: Recipe, history: Sequence[Epoch]) -> bool:
    """Whether early stopping ends training after this history (or never began: no rule, no epoch)."""
    if recipe.early_stopping is None:
        return False
    figures = watched(recipe, history, recipe.early_stopping)
    if not figures:
        return False
    best = figures.index(max(figures))
    return len(figures) - 1 - best >= recipe.early_stopping.patience


def kept_epoch(recipe: Recipe, history: Sequence[Epoch]) -> int:
    """Number of the epoch whose weights are kept: the first best by the recipe's criterion, or the last."""
    if recipe.checkpoint == "last":
        return history[-1].epoch
    robust = recipe.checkpoint == "robust"
    return max(history, key=lambda epoch: (epoch.robust if robust and epoch.robust else epoch.validation).share).epoch
