"""Functions that a user might write to attack networks."""

from __future__ import annotations

import torch

from robbench.attacks import fgsm, gradient_of


def step(network, images, labels, epsilon, *, share=1.0):
    """One step of the radius times a share."""
    return fgsm(network, images, labels, epsilon * share)


def nearest(network, images, labels, *, overshoot=1.0, norm="linf"):
    """The nearest counterexample of a linear network with two logits, times an overshoot."""
    iterate = images.detach().requires_grad_()
    logits = network(iterate)
    margin = (2 * labels - 1) * (logits[:, 1] - logits[:, 0])
    gradient = gradient_of(margin.sum(), iterate)
    move = gradient.sign() if norm == "linf" else gradient
    length = margin / (gradient * move).flatten(1).sum(1)
    return images - overshoot * length.detach().view(-1, 1, 1, 1) * move


def at_random(network, images, labels, epsilon):
    """Anywhere in the ball, drawn for one image and given to all."""
    return images + epsilon.view(-1, 1, 1, 1) * (2 * torch.rand_like(images[:1]) - 1)


def elsewhere(network, images, labels, epsilon, *, pixel="0"):
    """Images of one value, wherever that lies."""
    return torch.full_like(images, float(pixel))


def flat(network, images, labels, epsilon):
    """Images of another shape."""
    return images.flatten(1)
