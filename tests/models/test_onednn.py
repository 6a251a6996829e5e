"""Operators of oneDNN that torch has no public name for: tried before they are used, and done without elsewhere."""

import pytest
import torch

from robbench.models import onednn
from robbench.models.image_conv import ImageConvReLU2d
from robbench.models.onednn import dense

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


@pytest.fixture
def tried_anew():
    """Private operators are tried in the test, and again after it."""
    for trial in (onednn.fused_convolution, onednn.zeroing_in_place):
        trial.cache_clear()
    yield
    for trial in (onednn.fused_convolution, onednn.zeroing_in_place):
        trial.cache_clear()


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


@needs_onednn
@pytest.mark.parametrize("name", ["data_ptr", "_nbytes", "_get_mkldnn_serialized_md"])
@pytest.mark.parametrize("operator", [missing, refusing])
def test_another_torch_makes_new_gradients(name, operator, monkeypatch, tried_anew):
    """Where one of the operators is missing or refuses, nothing is written in place."""
    assert onednn.zeroing_in_place() is not None
    onednn.zeroing_in_place.cache_clear()
    monkeypatch.setattr(torch.ops.mkldnn, name, operator)
    assert onednn.zeroing_in_place() is None


@needs_onednn
@pytest.mark.parametrize("images", [2, 40_000])
def test_tensors_of_other_layouts_are_left_alone(images):
    """Where a value lies in one says nothing about the other; also with more places than float32 can count."""
    plain = torch.rand(images, 32, 4, 4).to_mkldnn()
    blocked = ImageConvReLU2d(1, 32, 1)(torch.rand(images, 1, 4, 4)).detach()
    before = plain.to_dense(), blocked.to_dense()
    in_place = onednn.InPlace()
    assert [in_place(plain, blocked) for _ in range(3)] == [False] * 3
    assert torch.equal(plain.to_dense(), before[0])
    assert torch.equal(blocked.to_dense(), before[1])


@needs_onednn
def test_few_layouts_are_remembered(monkeypatch):
    """Batches of any size come by; those that come again later are looked at again."""
    monkeypatch.setattr(onednn, "_MOST_LAYOUTS", 2)
    in_place = onednn.InPlace()
    for size in (2, 3, 4, 2):
        one, other = (torch.ones(size, 16, 2, 2).to_mkldnn() for _ in range(2))
        assert [in_place(one, other) for _ in range(2)] == [False, True]
        assert len(in_place._same) <= 2
