"""Whether a network classifies images correctly, and whether a counterexample is one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robbench.errors import RobbenchError
from robbench.machine.onednn import plain_layers
from robbench.machine.precision import full_precision
from robbench.spec.searches import Norm

BALL_TOLERANCE = 1e-6
"""Rounding allowed for |x' − x| ≤ ε in float32 (1/4000 of a grey level of 8-bit images)."""


def distance(adversarial: Tensor, images: Tensor, norm: Norm = "linf") -> Tensor:
    """How far (N, C, H, W) floats lie from images of their shape in pixel units, (N,) floats; L2 in float64."""
    if norm == "linf":
        return (adversarial - images).abs().flatten(1).amax(dim=1)
    far: Tensor = torch.linalg.vector_norm((adversarial.double() - images.double()).flatten(1), dim=1)
    return far


def is_right(network: nn.Module, images: Tensor, labels: Tensor, kind: str) -> Tensor:
    """Which (N, C, H, W) float images a network in eval mode classifies correctly, (N,) bool, by torch's own layers.

    Raises:
        RobbenchError: logits are not finite; ``kind`` names the images: ``test``, ``validation``.
    """
    with torch.no_grad(), plain_layers():
        logits: Tensor = network(images)
    if not torch.isfinite(logits).all():
        raise RobbenchError(f"the network's logits are not finite on unperturbed {kind} images; was it trained?")
    return logits.argmax(dim=1) == labels


def is_counterexample(
    network: nn.Module,
    adversarial: Tensor,
    images: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    *,
    box: tuple[float, float] = (0.0, 1.0),
    norm: Norm = "linf",
) -> Tensor:
    """Which adversarial images lie in ball and box and are misclassified, by inference in torch's own layers.

    Args:
        network: in eval mode.
        adversarial: (N, C, H, W) floats, the perturbed images.
        images: (N, C, H, W) floats, the originals.
        labels: (N,) int64.
        epsilon: radius in pixel units, or (N,) radii.
        box: range of valid pixels.
        norm: of the ball.

    Returns:
        (N,) bool.
    """
    with torch.no_grad(), full_precision(images.device), plain_layers():
        logits: Tensor = network(adversarial)
    # What is not finite is no classification: its argmax would name some class all the same.
    wrong = (logits.argmax(dim=1) != labels) & torch.isfinite(logits).all(dim=1)
    flat, far = adversarial.flatten(1), distance(adversarial, images, norm)
    radius = torch.as_tensor(epsilon, dtype=far.dtype, device=far.device)
    inside = (far <= radius + BALL_TOLERANCE) & (flat.amin(1) >= box[0]) & (flat.amax(1) <= box[1])
    return wrong & inside
