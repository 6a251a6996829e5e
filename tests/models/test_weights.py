"""State dicts: what comes out goes in again, and what does not fit changes nothing."""

from __future__ import annotations

import pytest
import torch

from robbench.errors import RobbenchError
from robbench.models import build, load_weights, weights


def cnn7(**options):
    """The smallest of the study's networks."""
    return build("cnn7", **{"classes": 10, "shape": (1, 28, 28), **options})


def same(first, second):
    """Whether two state dicts hold the same tensors under the same keys."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_keys_read_like_layers():
    """No prefix, and named as the study names its layers."""
    layers = ("conv1", "conv2", "conv3", "conv4", "fc1", "fc2", "fc3")
    assert list(weights(cnn7())) == [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


@pytest.mark.parametrize("prefix", ["", "body."])
def test_weights_go_in_as_they_came_out(prefix):
    """With or without the leading body., and with batch norm statistics, so that the logits are the same."""
    first, second = (build("wrn10_1", classes=3, shape=(3, 8, 8), seed=seed) for seed in (1, 2))
    images = torch.rand(4, 3, 8, 8)
    first(images)
    load_weights(second, {prefix + key: value for key, value in weights(first).items()}, "memory")
    assert same(weights(first), weights(second))
    assert torch.equal(first.eval()(images), second.eval()(images))


def test_weights_are_copies():
    """Training on does not change what was taken out."""
    network = cnn7()
    taken = weights(network)
    before = taken["fc3.bias"].clone()
    with torch.no_grad():
        network.body.fc3.bias.add_(1)
    assert torch.equal(taken["fc3.bias"], before)
    assert all(value.is_contiguous() and not value.requires_grad for value in taken.values())


def test_a_buffer_may_be_infinite_where_it_was_built_so():
    """A causal mask goes in as it came out; in another buffer no NaN does."""
    first, second = cnn7(seed=1), cnn7(seed=2)
    for network in (first, second):
        network.body.register_buffer("mask", torch.triu(torch.full((3, 3), -torch.inf), diagonal=1))
        network.body.register_buffer("mean", torch.zeros(2))
    load_weights(second, weights(first), "memory")
    assert same(weights(second), weights(first))
    with pytest.raises(RobbenchError, match=r"not finite: mean$"):
        load_weights(second, weights(first) | {"mean": torch.tensor([0.0, torch.nan])}, "memory")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {key: t[key] for key in t if key != "conv1.bias"}, "missing: conv1.bias$"),
        (lambda t: {**t, "fc9.weight": t["fc1.bias"]}, "unexpected: fc9.weight$"),
        (
            lambda t: {**t, "fc3.bias": torch.zeros(47)},
            r"of another shape: fc3.bias \(47,\) where \(10,\) is expected$",
        ),
        (lambda t: {**t, "fc3.bias": t["fc3.bias"] / 0}, "not finite: fc3.bias$"),
        (lambda t: {}, "missing: conv1.weight, conv1.bias, conv2.weight, conv2.bias and 10 more$"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(change, message):
    """The message names the file, the network and the keys."""
    network = cnn7(seed=1)
    before = weights(network)
    start = r"weights from store/abc do not fit cnn7 \(1x28x28 images, 10 classes\): "
    with pytest.raises(RobbenchError, match=start + message):
        load_weights(network, change(weights(cnn7(seed=2))), "store/abc")
    assert same(weights(network), before)
