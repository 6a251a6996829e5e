"""LoRA: what its branches are at first, which weights learn, and that merging them changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from robbench.models import build, weights
from robbench.training.lora import add_branches, merge_branches
from robbench.training.transfer import transfer

SHAPES = {"cnn7": (1, 28, 28), "wrn10_1": (3, 8, 8)}
CASES = pytest.mark.parametrize("architecture", SHAPES)


def branched(architecture, rank=2):
    """A transfer of the head alone in float64 and eval mode, and the same with branches."""
    source = build(architecture, classes=10, shape=SHAPES[architecture], seed=0).double().eval()
    plain = transfer(source, k=1, classes=5, kept="lora", seed=1)
    with_branches = copy.deepcopy(plain)
    add_branches(with_branches, rank, seed=2)
    return plain.network, with_branches.network


@CASES
def test_branches_change_nothing_at_first(architecture):
    """The logits are those of the transfer without them, bit by bit."""
    plain, network = branched(architecture)
    images = torch.rand(2, *plain.shape, dtype=torch.float64)
    assert torch.equal(network(images), plain(images))


@CASES
def test_branches_and_head_learn_alone_and_merging_keeps_what_they_learned(architecture):
    """After two steps the merged network gives the same logits, and has other weights than the source in all layers."""
    plain, network = branched(architecture)
    images = torch.rand(4, *plain.shape, dtype=torch.float64)
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(learning, lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(images), torch.arange(4)).backward()
        optimiser.step()
    logits = network(images)
    merge_branches(network)
    assert torch.allclose(network(images), logits, rtol=1e-5)
    assert not torch.allclose(plain(images), logits, rtol=1e-2)
    before, after = weights(plain), weights(network)
    assert after.keys() == before.keys()
    layers = {name for name, value in before.items() if value.ndim > 1}
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == layers | {f"{plain.head}.bias"}


@pytest.mark.parametrize("rank", [1, 3])
def test_a_layer_moves_by_a_matrix_of_this_rank(rank):
    """A convolution's weights as a matrix with a row for each output."""
    plain, network = branched("cnn7", rank)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("outwards"):
                parameter.normal_()
    merge_branches(network)
    for name in ("conv3.weight", "fc1.weight"):
        change = (weights(network)[name] - weights(plain)[name]).flatten(1)
        assert torch.linalg.matrix_rank(change, tol=1e-9) == rank
