"""Modes and flags of a network while it is attacked; all come back after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """The network in eval mode; afterwards the mode of *every* module is as it was."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield network
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def without_parameter_gradients(network: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient, so that a backward pass computes the images' alone; flags come back after."""
    flagged = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in flagged:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in flagged:
            parameter.requires_grad_(True)
