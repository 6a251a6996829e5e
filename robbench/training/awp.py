"""Adversarial weight perturbation (Wu et al. 2020): updates take their gradient where the loss is larger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def perturbed(network: nn.Module, gamma: float, forward: Callable[[], tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Within it, each layer's weights w are w + γ ‖w‖ g ÷ ‖g‖, g their gradient of the loss; nothing with γ = 0.

    In one step and by layers, as in the authors' code, which leaves biases and the parameters of batch norm alone.
    ``forward`` gives the loss first; statistics of batch norm that it moves come back.
    """
    if not gamma:
        yield
        return
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad and parameter.ndim > 1]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    gradients = torch.autograd.grad(forward()[0], weights, materialize_grads=True)
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.add_(gradient * (gamma * weight.norm() / gradient.norm().clamp_min(1e-20)))
    yield
    with torch.no_grad():
        for weight, value in zip(weights, before, strict=True):
            weight.copy_(value)
