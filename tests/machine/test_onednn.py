"""Operators of oneDNN that torch has no public name for: tried before they are used, and done without elsewhere."""

import pytest
import torch

from robbench.machine import onednn
from robbench.machine.fused import ImageConvReLU2d
from robbench.machine.onednn import dense

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


@pytest.fixture
def tried_anew():
    """Private operators are tried in the test, and again after it."""
    onednn.fused_convolution.cache_clear()
    yield
    onednn.fused_convolution.cache_clear()


def missing(*arguments):
    """Of a torch without the operator."""
    raise AttributeError("no such operator")


def refusing(*arguments):
    """Of a torch where it does not take oneDNN's layout."""
    raise RuntimeError("could not run with arguments from the MkldnnCPU backend")


def without_relu(features, weight, *rest):
    """Of a torch where it means something else."""
    return torch.nn.functional.conv2d(features, weight)


@needs_onednn
@pytest.mark.parametrize("operator", [missing, refusing, without_relu])
def test_another_torch_does_without_the_fused_operator(operator, monkeypatch, tried_anew):
    """Where it is missing, does not know the layout or gives other values, two operations do the same."""
    layer = ImageConvReLU2d(1, 8, 3).requires_grad_(False)
    images = torch.rand(2, 1, 28, 28)
    expected = dense(layer(images))
    assert onednn.fused_convolution() is not None
    onednn.fused_convolution.cache_clear()
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", operator)
    assert onednn.fused_convolution() is None
    torch.testing.assert_close(dense(layer(images)), expected)
