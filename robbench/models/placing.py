"""A network on its device."""

import torch

from robbench.models.network import Network


def place(network: Network, device: torch.device) -> Network:
    """On the device, with channels last."""
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
