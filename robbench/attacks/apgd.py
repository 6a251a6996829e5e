"""Auto-PGD with targets: stronger than PGD, and without a step size to choose."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robbench.attacks.modes import without_parameter_gradients
from robbench.attacks.pgd import gradient_of, per_image
from robbench.errors import require

MOMENTUM, RISING = 0.75, 0.75
"""Share of a move that is the gradient's; least share of moves that are to raise the objective (ρ of the paper)."""


def apgd_t(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    *,
    steps: int,
    targets: int = 9,
    box: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Targeted Auto-PGD on the difference of logits ratio, in the L∞ ball (Croce and Hein 2020, algorithm 1 and eq. 8).

    Every image starts at itself, and goes for the likeliest wrong class, then for the next, until it fools the network. Its
    result depends on the others of its batch by rounding only. The caller sets the modes of the modules; flags and
    gradients of the parameters stay as they were. With fewer than four classes, which have no such ratio, the objective is
    the difference of logits.

    Args:
        network: classifier, (N, C, H, W) floats -> (N, classes).
        images: (N, C, H, W) floats in ``box``.
        labels: (N,) int64, the classes to leave.
        epsilon: radius in pixel units; a float, or (N,) for one radius per image.
        steps: number of gradient steps for each class.
        targets: wrong classes to go for, at most.
        box: range of valid pixels.

    Returns:
        (N, C, H, W) images inside both the ball and the box: the first iterate that fools the network, or the image itself.

    Raises:
        RobbenchError: a radius is negative (tensors are looked into on the CPU only); a length does not fit.
    """
    require(steps >= 1, "steps", "an integer ≥ 1", steps)
    require(labels.shape == images.shape[:1], "labels", f"shape {tuple(images.shape[:1])}", tuple(labels.shape))
    radius = per_image("epsilon", epsilon, images).expand(len(images), *(1,) * (images.ndim - 1))
    adversarial, left = images.detach().clone(), torch.arange(len(images), device=images.device)
    with torch.no_grad():
        wrong_first = network(images).scatter(1, labels[:, None], -torch.inf).argsort(dim=1, descending=True)
    with without_parameter_gradients(network):
        for target in wrong_first[:, :-1].T[:targets]:
            if len(left):
                rows = images[left].detach(), labels[left], target[left], radius[left]
                found, fooled = _towards(network, *rows, steps, box)
                adversarial[left[fooled]], left = found[fooled], left[~fooled]
    return adversarial


def _towards(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    target: Tensor,
    radius: Tensor,
    steps: int,
    box: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """The first iterate of each image that fools the network, and whether there is one, (N,) bool."""
    lower, upper, step = (images - radius).clamp_(min=box[0]), (images + radius).clamp_(max=box[1]), 2 * radius
    iterate = previous = best = best_gradient = found = images
    value, best_value = (torch.full_like(radius, start) for start in (torch.inf, -torch.inf))
    checked_value, rises, halved, fooled = best_value, torch.zeros_like(radius), radius < 0, radius < 0
    checkpoints, last_checkpoint = _checkpoints(steps), 0
    for taken in range(steps + 1):
        with torch.enable_grad():
            iterate = iterate.detach().requires_grad_()
            logits = network(iterate)
            objective = _targeted_ratio(logits, labels, target)
        wrong = ((logits.argmax(dim=1) != labels) & torch.isfinite(logits).all(dim=1)).view_as(radius)
        found, fooled = torch.where(wrong & ~fooled, iterate.detach(), found), fooled | wrong
        if taken == steps:
            break
        gradient, iterate = gradient_of(objective.sum(), iterate), iterate.detach()
        before, value = value, objective.detach().view_as(radius)
        rises = rises + (value > before)
        better = value > best_value
        best, best_gradient = torch.where(better, iterate, best), torch.where(better, gradient, best_gradient)
        best_value = torch.where(better, value, best_value)
        if taken in checkpoints:
            halved = (rises < RISING * (taken - last_checkpoint)) | (~halved & (best_value == checked_value))
            step, value = torch.where(halved, step / 2, step), torch.where(halved, best_value, value)
            iterate, gradient = torch.where(halved, best, iterate), torch.where(halved, best_gradient, gradient)
            checked_value, rises, last_checkpoint = best_value, torch.zeros_like(rises), taken
        share = MOMENTUM if taken else 1.0
        projected = torch.addcmul(iterate, gradient.sign(), step).clamp_(lower, upper)
        moved = iterate + share * (projected - iterate) + (1 - share) * (iterate - previous)
        iterate, previous = moved.clamp_(lower, upper), iterate
    return found, fooled.flatten()


def _checkpoints(steps: int) -> set[int]:
    """Steps after which it is looked whether to halve the step: denser towards the end (section 3 of the paper)."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return {math.ceil(round(share * steps, 6)) for share in shares}


def _targeted_ratio(logits: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """(N,): how far the target's logit lies above the label's, in units of how far the largest logits lie apart."""
    lead: Tensor = (logits.gather(1, target[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)
    if logits.shape[1] < 4:
        return lead
    first, _, third, fourth = logits.topk(4).values.T
    ratio: Tensor = lead / (first - (third + fourth) / 2 + 1e-12)
    return ratio
