"""Floating-point operations: what a pass, and what an update cannot do without."""

import pytest
import torch

from robbench.machine.flops import forward_flops, update_flops
from robbench.models import build

FIRST, MIDDLE, LAST = 784 * 1024, 1024 * 1024, 1024 * 10


@pytest.fixture
def network():
    """relu_4_1024: four matrix products."""
    return build("relu_4_1024", classes=10, shape=(1, 28, 28))


def test_forward_flops_are_two_for_a_product_and_a_sum(network):
    """relu_4_1024 multiplies 784·1024 + 2·1024² + 1024·10 pairs."""
    assert forward_flops(network, torch.rand(1, 1, 28, 28)) == 2 * (FIRST + 2 * MIDDLE + LAST)


def test_an_update_needs_no_gradient_of_the_images(network):
    """Forward, to the weights and to the input of every layer, but for the first layer's input."""
    assert update_flops(network, torch.rand(1, 1, 28, 28)) == 2 * (2 * FIRST + 3 * (2 * MIDDLE + LAST))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_an_update_goes_back_to_the_first_layer_that_learns(network):
    """Frozen layers in front of it only pass forward, as do all where nothing learns."""
    network.requires_grad_(False)
    network.body.fc3.requires_grad_(True)
    network.body.fc4.requires_grad_(True)
    image = torch.rand(1, 1, 28, 28)
    assert update_flops(network, image) == 2 * (FIRST + MIDDLE + 2 * MIDDLE + 3 * LAST)
    assert update_flops(network.requires_grad_(False), image) == forward_flops(network, image)


def test_the_convolution_of_small_images_counts_as_any_other():
    """Also in the layout that it has on a CPU: cnn3 has 32 filters of 25 taps at 784 places."""
    network = build("cnn3", classes=10, shape=(1, 28, 28))
    first, others = 25 * 32 * 784, 25088 * 128 + 128 * 10
    image = torch.rand(1, 1, 28, 28)
    assert forward_flops(network, image) == 2 * (first + others)
    assert update_flops(network, image) == 2 * (2 * first + 3 * others)
