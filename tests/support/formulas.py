"""Losses by hand in float64, and a loss's value and gradient held against them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robbench.training import Batch


def softmax(logits, temperature=1.0):
    """(N, classes) float64 -> the same shape."""
    powers = np.exp(logits / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def ce(logits, labels):
    """Mean cross-entropy."""
    return -np.log(softmax(logits)[np.arange(len(labels)), labels]).mean()


def kl(one, other):
    """KL(one ‖ other) of each row."""
    return (one * np.log(one / other)).sum(axis=1)


def drawn(seed=0, images=5, classes=4):
    """Logits of clean and attacked images and of a teacher for both, (N, classes) float32; and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = [2 * torch.randn(images, classes, generator=generator) for _ in range(4)]
    return *logits, torch.randint(classes, (images,), generator=generator)


def as_by_hand(loss, formula, clean, attacked, labels, reference=None):
    """Hold a loss of a student that gives back its images against ``formula(clean, attacked)``, numbers of float64.

    Value, and gradient by central differences.
    """
    given = [each.clone().requires_grad_() for each in (clean, attacked)]
    value, _ = loss(Batch(*given, labels, reference=reference))
    found = torch.autograd.grad(value, given, materialize_grads=True)
    exact = [each.double().numpy() for each in (clean, attacked)]
    assert value.item() == pytest.approx(formula(*exact), rel=1e-5)
    for number, gradient in enumerate(found):
        np.testing.assert_allclose(gradient.numpy(), slope(formula, exact, number), rtol=1e-4, atol=1e-6)


def slope(formula, arrays, number, step=1e-5):
    """Gradient of the formula by one of its arrays."""
    gradient = np.zeros_like(arrays[number])
    for place in np.ndindex(gradient.shape):
        ends = []
        for sign in (1, -1):
            moved = [array.copy() for array in arrays]
            moved[number][place] += sign * step
            ends.append(formula(*moved))
        gradient[place] = (ends[0] - ends[1]) / (2 * step)
    return gradient
