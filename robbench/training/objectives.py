"""What an update minimises: a new objective is a spec of its own, and a function registered with ``loss_function``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import singledispatch

import torch.nn.functional as F
from torch import Tensor, nn

from robbench.errors import RobbenchError
from robbench.spec import CrossEntropy, Objective

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
