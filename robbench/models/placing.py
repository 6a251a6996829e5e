"""Where a network computes, and with which layers."""

from __future__ import annotations

import torch

from robbench.machine.onednn import swap
from robbench.models.network import Network


def place(network: Network, device: torch.device) -> Network:
    """Move the network to a device, with channels last; on the CPU swap its convolutions for faster ones, too.

    The network is changed in place; its results change by rounding alone. ``suites/perf`` measures what both gain:
    channels last makes wide ResNets a seventh faster on a CPU.
    """
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu":
        swap(network)
    return network
