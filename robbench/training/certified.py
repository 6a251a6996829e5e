"""Certified training: the loss of the worst logits that bounds allow (Gowal et al. 2018; Zhang et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robbench.bounds import BoundedNetwork, Boxes
from robbench.errors import RobbenchError
from robbench.spec import IBP
from robbench.training.objectives import Batch, Loss, loss_function


@loss_function.register
def _(objective: IBP, student: nn.Module, parents: Mapping[str, nn.Module]) -> Loss:
    bounded = BoundedNetwork(student)

    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        if any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.training for layer in student.modules()):
            raise RobbenchError("IBP: expected batch norms in eval mode, got training mode; set statistics='running'")
        logits = student(batch.clean)
        clean = F.cross_entropy(logits, batch.labels)
        ramped = ramp(objective, batch.done)
        if ramped == 0:
            return clean, logits
        radii = torch.full(batch.labels.shape, ramped * objective.epsilon, device=batch.clean.device)
        boxes = Boxes.around(batch.clean, radii)
        worst = bounded.worst_logits(boxes, batch.labels, logits.shape[1], "ibp")
        if objective.crown and ramped < 1:
            tighter = bounded.worst_logits(boxes, batch.labels, logits.shape[1], "crown-ibp")
            worst = ramped * worst + (1 - ramped) * tighter
        kappa = 1 - ramped * (1 - objective.kappa)
        return kappa * clean + (1 - kappa) * F.cross_entropy(worst, batch.labels), logits

    return Loss(loss)


def ramp(objective: IBP, done: float) -> float:
    """Share of the radius in use after this share of the training, from 0 to 1."""
    if done < objective.warm_up:
        return 0.0
    return min(1.0, (done - objective.warm_up) / objective.ramp) if objective.ramp else 1.0
