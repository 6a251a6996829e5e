"""What a recipe decides by epoch: learning rate, the attack's radius, when training stops, which epoch is kept. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from robbench.record import Epoch
from robbench.spec import MultiStepLR, OneCycle, Recipe, StepLR


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
