"""Floating-point operations of a network: two for each product and sum, of matrix products and convolutions alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from robbench.machine.onednn import plain_layers


def forward_flops(network: nn.Module, image: Tensor) -> int:
    """Floating-point operations of one forward pass of one image, (1, ...) floats.

    A pass back to the image takes as many again.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), plain_layers(), counter:
        network(image)
    return int(counter.get_total_flops())


def update_flops(network: nn.Module, image: Tensor) -> int:
    """Floating-point operations of an update of the weights for one image, (1, ...) floats: forward, and back to them.

    Back to the weights that require a gradient, and no further: no layer in front of the first of them has a backward
    pass, and that one needs no gradient towards its input. Gradients of the parameters are left as they were;
    what a forward pass changes in training mode, statistics of batch norm, it changes here.
    """
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not learning:
        return forward_flops(network, image)
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), plain_layers(), counter:
        torch.autograd.grad(network(image.detach()).sum(), learning, allow_unused=True)
    return int(counter.get_total_flops())
