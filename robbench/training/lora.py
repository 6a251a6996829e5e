"""LoRA: low-rank branches beside frozen layers learn, and are merged into them in the end (Hu et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from robbench.machine.onednn import FusedConvolution
from robbench.models import Network
from robbench.models.network import seeded
from robbench.training.transfer import Transferred

_Layer = nn.Linear | nn.Conv2d | FusedConvolution


class LowRank(nn.Module):
    """W + B A ÷ r for the weights W of a layer, as a matrix with a row for each output: A (r, inputs), B (outputs, r).

    A is normal and B is 0 at first, as in the code of AutoLoRa, so that the layer begins as it was. There a convolution of
    k × k taps has a branch of rank r k.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.inwards = nn.Parameter(torch.randn(rank, weight[0].numel()).to(weight))
        self.outwards = nn.Parameter(weight.new_zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        """(outputs, ...), both ways."""
        return weight + (self.outwards @ self.inwards).view(weight.shape) / len(self.inwards)


def add_branches(transferred: Transferred, rank: int, seed: int) -> None:
    """Put a branch beside each linear layer and convolution that is kept, in place; its values depend on the seed.

    A layer whose weights are computed, as with a weight norm, gets none.
    """
    layers = dict.fromkeys(layer for top in transferred.kept for layer in top.modules() if isinstance(layer, _Layer))
    with seeded(seed):
        for layer in layers:
            if isinstance(layer.weight, nn.Parameter):
                parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))


def merge_branches(network: Network) -> None:
    """Give the layers the weights that they have with their branches, and take the branches away, in place."""
    for layer in list(network.modules()):
        branched = parametrize.is_parametrized(layer, "weight")
        if branched and isinstance(layer.get_submodule("parametrizations.weight.0"), LowRank):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
