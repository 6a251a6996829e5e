"""What an update minimises: a new objective is a spec of its own, and a function registered with ``loss_function``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robbench.errors import RobbenchError
from robbench.spec import CrossEntropy, Objective, Recipe

Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From clean images, the images to train on (attacked if the recipe attacks) and labels to mean loss and logits."""


@singledispatch
def loss_function(objective: Objective, student: nn.Module, parents: Mapping[str, nn.Module]) -> Loss:
    """The loss of an objective for the student, which is trained, and its parents by role, which are not.

    The loss is called under the recipe's autocast, with the student in the mode of the update.
    """
    kind = type(objective).__name__
    raise RobbenchError(f"objective: expected a kind with a loss function, got {kind}; see loss_function.register")


@loss_function.register
def _(objective: CrossEntropy, student: nn.Module, parents: Mapping[str, nn.Module]) -> Loss:
    def loss(clean: Tensor, attacked: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = student(attacked)
        return F.cross_entropy(logits.float(), labels), logits

    return loss


def loss_of(recipe: Recipe, student: nn.Module, parents: Mapping[str, nn.Module], labels: Tensor) -> Loss:
    """The loss of a recipe, weighted, where it asks for that, by the (N,) int64 labels of all images to train on."""
    if recipe.class_weights == "none":
        return loss_function(recipe.objective, student, parents)
    weights = balanced_weights(labels)

    def loss(clean: Tensor, attacked: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = student(attacked)
        full = F.pad(weights, (0, logits.shape[1] - len(weights))).to(logits.device)  # no image of the last classes
        return F.cross_entropy(logits.float(), labels, weight=full), logits

    return loss


def balanced_weights(labels: Tensor) -> Tensor:
    """Float32 weights of the classes: N ÷ (classes · images of the class), 0 of a class without images."""
    counts = torch.bincount(labels.cpu())
    there = counts > 0
    return torch.where(there, len(labels) / (there.sum() * counts.clamp(min=1)), 0.0).float()
