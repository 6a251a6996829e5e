"""Weights from elsewhere: published names, prefixes, copies, normalisation, and files that are refused."""

from __future__ import annotations

import argparse
import io

import published
import pytest
import torch
from published import Normalised, PreAct, Residual, Swish, Wide, drawn, torchvision_small
from safetensors.torch import save

from robbench.errors import RobbenchError
from robbench.models import Normalise, build, load_weights
from robbench.models.files import read_tensors
from robbench.models.matching import find_weights

COLOUR = (3, 32, 32)
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def saved(value):
    """The tensors of what torch writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return read_tensors(buffer.getvalue(), "weights.pt")


def loaded(architecture, tensors, shape=COLOUR, classes=10, part=None):
    """A network with a file's weights, behind the file's own normalisation, and what was found."""
    network = build(architecture, classes=classes, shape=shape, seed=9)
    found = find_weights(network, tensors, part)
    load_weights(network, found.tensors, "weights.pt")
    if found.normalisations:
        network.normalise = Normalise(found.normalisations[0].mean, found.normalisations[0].std)
    return network.eval(), found


def same_logits(network, other, shape=COLOUR):
    """Whether two networks agree to float32 on random pixels, on logits that are not all alike."""
    images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = other(images)
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert expected.std() > 1e-3


@pytest.mark.parametrize(
    ("architecture", "network"),
    [
        ("wideresnet10_2", lambda: Wide(10, 2)),
        ("wideresnet16_1", lambda: Wide(16, 1, unused=False)),
        ("wideresnet10_2_swish", lambda: Swish(10, 2)),
        ("wideresnet16_1_swish", lambda: Swish(16, 1)),
        ("preactresnet18", PreAct),
        ("preactresnet18_raw", lambda: PreAct(raw=True)),
        ("preactresnet18_bn", lambda: PreAct(last_norm=True)),
        ("resnet18", Residual),
        ("resnet18", lambda: torchvision_small("resnet18")),
        ("resnet50", lambda: torchvision_small("resnet50")),
    ],
)
def test_published_networks_keep_their_logits(architecture, network):
    """By their own names, behind a normalisation as RobustBench wraps them."""
    network = Normalised(drawn(network()), *CIFAR)
    mapped, found = loaded(architecture, saved(network.state_dict()))
    assert found.prefix == "model."
    assert found.normalisations[0].names == ("normalize.mean", "normalize.std")
    same_logits(mapped, network)


@pytest.mark.parametrize(
    ("architecture", "published", "size"),
    [
        ("wideresnet28_10", Wide, (28, 10)),
        ("wideresnet34_10", Wide, (34, 10)),
        ("wideresnet28_10_swish", Swish, (28, 10)),
    ],
)
def test_the_large_wide_networks_have_the_published_tensors(architecture, published, size):
    """Depth and width as their name says; shapes are those of the published modules."""
    with torch.device("meta"):
        network = published(*size)
    expected = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("sub_block1.")}
    network = build(architecture, classes=10, shape=COLOUR)
    found = find_weights(network, expected)
    own = network.body.state_dict()
    assert {*found.names.values()} == expected.keys()
    assert all(own[key].shape == expected[name].shape for key, name in found.names.items())
