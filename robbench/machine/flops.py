"""Floating-point operations of a network's matrix products and convolutions: a product and its sum count as two."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from robbench.machine.onednn import plain_layers


def forward_flops(network: nn.Module, image: Tensor) -> int:
    """Floating-point operations of one forward pass of one image, (1, ...) floats; a pass back takes as many again."""
    with torch.no_grad(), plain_layers(), FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops())


def update_flops(network: nn.Module, image: Tensor) -> int:
    """Floating-point operations of an update of the weights for one image, (1, ...) floats.

    An update goes forward, and back to the first weights that require a gradient, but not to their layer's input.
    """
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not learning:
        return forward_flops(network, image)
    with torch.enable_grad(), plain_layers(), FlopCounterMode(display=False) as counter:
        torch.autograd.grad(network(image.detach()).sum(), learning, allow_unused=True)
    return int(counter.get_total_flops())
