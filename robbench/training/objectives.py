"""What an update minimises: a new objective is a spec of its own, and a function registered with ``loss_function``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robbench.attacks import AttackLoss, cross_entropy
from robbench.errors import RobbenchError
from robbench.spec import CrossEntropy, Objective, Recipe


@dataclass(frozen=True)
class Batch:
    """What an update is made on: B images, augmented if the recipe augments."""

    clean: Tensor
    """(B, C, H, W) float32 in [0, 1]; or features of frozen blocks."""
    attacked: Tensor
    """The images to train on: attacked if the recipe attacks, else the clean ones."""
    labels: Tensor
    """(B,) int64."""
    done: float = 0.0
    """Share of the recipe's epochs that is done: what a ramp depends on."""
    reference: Tensor | None = None
    """(B, ...), what the loss's reference makes of the clean images; None where it has none."""


@dataclass(frozen=True)
class Adversary:
    """What the recipe's attack maximises where that is not the cross-entropy, and where it starts."""

    loss: AttackLoss = cross_entropy
    """A function of a module: a GPU keeps a graph of the attack for each."""
    first: AttackLoss | None = None
    """What its first step maximises, where that is something else."""
    target: Callable[[nn.Module, Tensor, Tensor, Tensor | None], Tensor] | None = None
    """From student, in eval mode, clean images, labels and reference to what ``loss`` compares with; None: labels."""
    spread: float | None = None
    """Standard deviation in pixel units of a normal random start; None: uniform in the ball."""


@dataclass(frozen=True)
class Loss:
    """An objective ready to be minimised."""

    function: Callable[[Batch], tuple[Tensor, Tensor]]
    """From a batch to the mean loss and the (B, classes) logits that count as right or wrong."""
    adversary: Adversary = Adversary()
    reference: nn.Module | None = None
    """A fixed network whose outputs for clean images the loss wants; computed once where the images stay the same."""

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As ``function``."""
        return self.function(batch)


@singledispatch
def loss_function(objective: Objective, student: nn.Module, parents: Mapping[str, nn.Module]) -> Loss:
    """The loss of an objective for the student, which is trained, and its parents by role, which are not.

    The loss is called under the recipe's autocast, the student in the mode of the update, the parents in eval mode.
    """
    kind = type(objective).__name__
    raise RobbenchError(f"objective: expected a kind with a loss function, got {kind}; see loss_function.register")


@loss_function.register
def _(objective: CrossEntropy, student: nn.Module, parents: Mapping[str, nn.Module]) -> Loss:
    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        logits = student(batch.attacked)
        return F.cross_entropy(logits.float(), batch.labels), logits

    return Loss(loss)


def loss_of(recipe: Recipe, student: nn.Module, parents: Mapping[str, nn.Module], labels: Tensor) -> Loss:
    """The loss of a recipe, weighted, where it asks for that, by the (N,) int64 labels of all images to train on."""
    if recipe.class_weights == "none":
        return loss_function(recipe.objective, student, parents)
    weights = balanced_weights(labels)

    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        logits = student(batch.attacked)
        full = F.pad(weights, (0, logits.shape[1] - len(weights))).to(logits.device)  # no image of the last classes
        return F.cross_entropy(logits.float(), batch.labels, weight=full), logits

    return Loss(loss)


def balanced_weights(labels: Tensor) -> Tensor:
    """Float32 weights of the classes: N ÷ (classes · images of the class), 0 of a class without images."""
    counts = torch.bincount(labels.cpu())
    there = counts > 0
    return torch.where(there, len(labels) / (there.sum() * counts.clamp(min=1)), 0.0).float()
