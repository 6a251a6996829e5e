"""RiFT: fine-tune the block that robustness depends on least, then go part of the way back (Zhu et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, linalg, nn

from robbench.attacks import evaluating
from robbench.data import ImageSource
from robbench.models import Block
from robbench.record import Counts
from robbench.spec import Recipe
from robbench.training.updates import validate

SIZE = 0.1
"""Radius of the ball of weight perturbations, as a share of the norm of the block's weights (section 3.3)."""

STEPS = 10
"""Of gradient ascent in it."""

SHARES = tuple(tenth / 10 for tenth in range(11))
"""Of the way from the robust weights to the fine-tuned ones that are tried, ascending."""


def layers_of(block: Block) -> list[nn.Parameter]:
    """The weights of a block's layers, without biases and the parameters of batch norm."""
    return [parameter for parameter in block.parameters() if parameter.ndim > 1]


def criticality(network: nn.Module, block: Block, attacked: Tensor, labels: Tensor, *, size: float = SIZE) -> float:
    """Robust criticality of a block: how much the worst weights near its own raise the loss of attacked images (eq. 2).

    The images stay as they were attacked before, as in section 3.3. Ascent takes steps of a quarter of the ball's radius
    along the gradient, and the largest loss on the way counts. The network is judged in eval mode and stays as it was.

    Args:
        network: classifier, (N, C, H, W) float32 -> (N, classes).
        block: of the network, with a layer.
        attacked: (N, C, H, W) float32 adversarial images.
        labels: (N,) int64.
        size: radius of the ball in the L2 norm, as a share of the norm of the block's weights.
    """
    weights = layers_of(block)
    flags, before = [weight.requires_grad for weight in weights], [weight.detach().clone() for weight in weights]
    radius = size * _norm(before)
    losses = []
    with evaluating(network):
        for weight in weights:
            weight.requires_grad_(True)
        for _ in range(STEPS):
            losses.append(F.cross_entropy(network(attacked), labels))
            gradients = torch.autograd.grad(losses[-1], weights, materialize_grads=True)
            with torch.no_grad():
                step = radius / 4 / _norm(gradients).clamp_min(1e-20)
                moved = [w + step * g - b for w, g, b in zip(weights, gradients, before, strict=True)]
                back = (radius / _norm(moved).clamp_min(1e-20)).clamp_max(1)
                for weight, value, away in zip(weights, before, moved, strict=True):
                    weight.copy_(value + back * away)
        with torch.no_grad():
            losses.append(F.cross_entropy(network(attacked), labels))
            for weight, value, flag in zip(weights, before, flags, strict=True):
                weight.copy_(value)
                weight.requires_grad_(flag)
    return max(loss.item() for loss in losses) - losses[0].item()


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    norm: Tensor = linalg.vector_norm(torch.stack([linalg.vector_norm(tensor) for tensor in tensors]))
    return norm


def interpolate(
    network: nn.Module,
    robust: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    recipe: Recipe,
    validation: ImageSource,
    *,
    seed: int,
) -> tuple[float, Counts, Counts]:
    """Give the network the weights between ``robust`` and ``tuned`` with the most clean validation accuracy.

    Only those count whose robust accuracy under the recipe's attack is not below that of ``robust`` (eq. 9). The random
    starts of the attack are the same for all. Of equally accurate ones the most robust is taken, then the nearest.

    Returns:
        The share of the way, and the validation images that are right there unperturbed, and under attack.
    """
    tried = []
    for share in SHARES:
        network.load_state_dict(_between(robust, tuned, share))
        clean, safe = validate(network, recipe, validation, seed=seed)
        assert safe is not None
        tried.append((share, clean, safe))
    allowed = [each for each in tried if each[2].correct >= tried[0][2].correct]
    best = max(allowed, key=lambda each: (each[1].correct, each[2].correct, -each[0]))
    network.load_state_dict(_between(robust, tuned, best[0]))
    return best


def _between(robust: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights so much of the way from the robust to the tuned ones; counters are the tuned ones'."""
    return {
        name: torch.lerp(value, tuned[name], share) if value.is_floating_point() else tuned[name]
        for name, value in robust.items()
    }
