"""What attacks maximise: functions of (N, classes) logits and a target for each image, summed over the images."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

AttackLoss = Callable[[Tensor, Tensor], Tensor]
"""From (N, classes) logits and a target for each image to a sum over the images, each of which counts by itself."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropies of (N, classes) logits and (N,) int64 labels, summed."""
    return F.cross_entropy(logits, labels, reduction="sum")


def divergence(logits: Tensor, shares: Tensor) -> Tensor:
    """KL divergences of softmax(logits) from (N, classes) probabilities, KL(shares ‖ softmax), summed."""
    return F.kl_div(F.log_softmax(logits, dim=1), shares, reduction="sum")


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Dice losses 1 − 2 p_y ÷ (Σ p² + 1) of softmax(logits) and (N,) int64 labels (Milletari et al. 2016), summed."""
    return _dice(logits, labels).sum()


def dice_of_right(logits: Tensor, labels: Tensor) -> Tensor:
    """As :func:`dice`, but over the images that are classified correctly."""
    return (_dice(logits, labels) * (logits.argmax(dim=1) == labels)).sum()


def _dice(logits: Tensor, labels: Tensor) -> Tensor:
    shares = F.softmax(logits, dim=1)
    own = shares.gather(1, labels[:, None]).squeeze(1)
    return 1 - 2 * own / (shares.square().sum(dim=1) + 1)
