"""Adversarial distillation: students that imitate a robust teacher; and the attack that DARD trains both with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robbench.attacks import dice, dice_of_right, divergence
from robbench.spec import ARD, DARD, RSLAD, DicePGD
from robbench.training.objectives import Adversary, Batch, Loss, loss_function

DICE = Adversary(dice, first=dice_of_right)
"""Dice-PGD, image by image: of its weights λ_t the signs of a step see λ_1 = 0 only."""


@loss_function.register
def _(objective: DicePGD, student: nn.Module, parents: Mapping[str, nn.Module]) -> Loss:
    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        logits = student(batch.attacked)
        return F.cross_entropy(logits.float(), batch.labels), logits

    return Loss(loss, DICE)


@loss_function.register
def _(objective: ARD, student: nn.Module, parents: Mapping[str, nn.Module]) -> Loss:
    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        clean, attacked = student(batch.clean).float(), student(batch.attacked).float()
        distance = apart(attacked, of_teacher(batch), objective.temperature)
        return objective.alpha * distance + (1 - objective.alpha) * F.cross_entropy(clean, batch.labels), attacked

    return Loss(loss, reference=parents["teacher"])


@loss_function.register
def _(objective: RSLAD, student: nn.Module, parents: Mapping[str, nn.Module]) -> Loss:
    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        clean, attacked = student(batch.clean).float(), student(batch.attacked).float()
        distances = (apart(logits, of_teacher(batch), 1.0) for logits in (attacked, clean))
        return objective.alpha * next(distances) + (1 - objective.alpha) * next(distances), attacked

    return Loss(loss, Adversary(divergence, target=teachers_shares, spread=0.001), parents["teacher"])


@loss_function.register
def _(objective: DARD, student: nn.Module, parents: Mapping[str, nn.Module]) -> Loss:
    alpha, teacher = objective.alpha, parents["teacher"]

    def half(logits: Tensor, theirs: Tensor, labels: Tensor) -> Tensor:
        distance = apart(logits, theirs, objective.temperature)
        return alpha * distance + (1 - alpha) * F.cross_entropy(logits, labels)

    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        clean, attacked = student(batch.clean).float(), student(batch.attacked).float()
        with torch.no_grad():
            theirs = teacher(batch.attacked)
        value = half(clean, of_teacher(batch), batch.labels) + half(attacked, theirs, batch.labels)
        return value / 2, attacked

    return Loss(loss, DICE, teacher)


def apart(logits: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """T² times the mean over images of KL(teacher ‖ student), both softmax at temperature T (Hinton et al. 2015)."""
    shares = (teachers.float() / temperature).softmax(1)
    return temperature**2 * F.kl_div((logits / temperature).log_softmax(1), shares, reduction="batchmean")


def of_teacher(batch: Batch) -> Tensor:
    """(B, classes) logits that the teacher gives clean images."""
    assert batch.reference is not None
    return batch.reference


def teachers_shares(student: nn.Module, clean: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
    """(B, classes) probabilities that the teacher gives clean images."""
    assert reference is not None
    return reference.softmax(1)
