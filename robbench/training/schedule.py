"""How learning rate and the attack's radius change while a network is trained."""

from __future__ import annotations

import math

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
