"""TRADES and MART: losses of an image and its attacked twin."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robbench.attacks import divergence
from robbench.spec import MART, TRADES
from robbench.training.objectives import Adversary, Batch, Loss, loss_function


@loss_function.register
def _(objective: TRADES, student: nn.Module, parents: Mapping[str, nn.Module]) -> Loss:
    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        clean, attacked = student(batch.clean).float(), student(batch.attacked).float()
        return F.cross_entropy(clean, batch.labels) + objective.beta * _moved(clean, attacked).mean(), attacked

    return Loss(loss, Adversary(divergence, target=own_shares, spread=0.001))


@loss_function.register
def _(objective: MART, student: nn.Module, parents: Mapping[str, nn.Module]) -> Loss:
    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        clean, attacked = student(batch.clean).float(), student(batch.attacked).float()
        labels = batch.labels[:, None]
        doubt = 1 - clean.softmax(1).gather(1, labels).squeeze(1)
        return _boosted(attacked, labels) + objective.weight * (_moved(clean, attacked) * doubt).mean(), attacked

    return Loss(loss)


def _moved(clean: Tensor, attacked: Tensor) -> Tensor:
    """KL(p(x) ‖ p(x')) of each image, of logarithms: a probability that is 0 in float32 would have no gradient."""
    return F.kl_div(attacked.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(dim=1)


def _boosted(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of −log p_y − log(1 − max of the other p_k) (MART's BCE); labels are (B, 1)."""
    others = logits.scatter(1, labels, -torch.inf)
    total = logits.logsumexp(1)
    second = others.argmax(dim=1, keepdim=True)
    without = logits.scatter(1, second, -torch.inf).logsumexp(1)  # log(1 − p_k) = log Σ of all but k − log Σ of all
    return (2 * total - logits.gather(1, labels).squeeze(1) - without).mean()


def own_shares(student: nn.Module, clean: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
    """(B, classes) probabilities that the student gives clean images."""
    shares: Tensor = student(clean).softmax(1)
    return shares
