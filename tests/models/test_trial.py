"""Two images through a network: what is refused before anything is trained, and what a reader is told."""

from __future__ import annotations

import sys
import types
from collections import namedtuple

import pytest
import torch
from networks import Through
from torch import nn

from robbench.errors import RobbenchError
from robbench.models import build, share_alike, try_network

SHAPE = (1, 16, 16)
Outputs = namedtuple("Outputs", "logits features")


def mlp(classes):
    """A small network that is sound."""
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, classes))


@pytest.fixture
def built(monkeypatch):
    """Build the network that a function of the number of classes gives, as a user's own for 16x16 images."""

    def make(function, classes=10, seed=0):
        module = types.ModuleType("own_networks")
        module.make = lambda classes, shape: function(classes)
        monkeypatch.setitem(sys.modules, "own_networks", module)
        return build("own_networks:make", classes=classes, shape=SHAPE, seed=seed)

    return make


@pytest.mark.parametrize(
    ("behind", "values"),
    [
        (nn.LogSoftmax(dim=1), "-2002 to -1.609"),
        (nn.Sigmoid(), "0 to 1"),
        (nn.LogSigmoid(), "-1000 to 0"),
        (nn.Tanh(), "-1 to 1"),
        (nn.ReLU(), "0 to 1000"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("classes", [2, 10])
def test_what_is_behind_the_logits_is_found(built, behind, values, classes):
    """Whatever keeps them from being large with either sign."""
    network = built(lambda classes: nn.Sequential(*mlp(classes), behind), classes)
    said = "expected logits, got values from " + (values if classes == 10 else "")
    with pytest.raises(RobbenchError, match=rf"own_networks:make: {said}.* where its last nn.Linear gives ±1000"):
        try_network(network)


class SoftmaxInTraining(nn.Module):
    """Probabilities in training mode alone."""

    def forward(self, logits):
        """(N, classes), both ways."""
        return logits.softmax(1) if self.training else logits


class Functional(nn.Module):
    """Its last layer is not called."""

    def __init__(self, classes):
        super().__init__()
        self.layers = mlp(classes)

    def forward(self, images):
        """Probabilities of images."""
        hidden = self.layers[:-1](images)
        return nn.functional.linear(hidden, self.layers[-1].weight, self.layers[-1].bias).softmax(1)


@pytest.mark.parametrize(
    "make",
    [
        lambda classes: nn.Sequential(*mlp(classes), nn.Softmax(dim=1)),
        lambda classes: nn.Sequential(*mlp(classes), SoftmaxInTraining()),
        Functional,
    ],
    ids=["softmax", "in training mode", "functional"],
)
def test_a_softmax_is_found_wherever_it_is(built, make):
    """Behind a layer that is called or not, in either mode."""
    with pytest.raises(RobbenchError, match=r"own_networks:make: expected logits.* got probabilities"):
        try_network(built(make))


def test_logits_that_are_no_numbers_are_found(built):
    """Of untrained weights."""
    with pytest.raises(RobbenchError, match="expected finite logits"):
        built(lambda classes: Through(mlp(classes), logits=lambda logits: logits * float("nan")))


@pytest.mark.parametrize("factor", [0.01, -30.0])
def test_logits_may_be_scaled(built, factor):
    """By a temperature, say."""
    assert try_network(built(lambda classes: Through(mlp(classes), logits=lambda logits: factor * logits))) == []


class InTraining(nn.Module):
    """Gives something else in training mode than the logits of the model inside."""

    def __init__(self, model, otherwise):
        super().__init__()
        self.model, self.otherwise = model, otherwise

    def forward(self, images):
        """The logits, or what is made of them."""
        logits = self.model(images)
        return self.otherwise(logits) if self.training else logits


OTHERWISE = {
    "a tuple of 2": lambda logits: (logits, logits),
    "a list of 1": lambda logits: [logits],
    "a dict with 'logits', 'features'": lambda logits: {"logits": logits, "features": logits},
    "a Outputs of 2": lambda logits: Outputs(logits, logits),
    "a NoneType": lambda logits: None,
}


@pytest.mark.parametrize("got", OTHERWISE)
def test_one_tensor_is_asked_for_in_both_modes(built, got):
    """A network with an auxiliary head gives it in training mode only; what came is named, and it is no wrong size."""
    with pytest.raises(
        RobbenchError, match=rf"^own_networks:make: expected its forward to return .* alone, got {got}$"
    ):
        built(lambda classes: Through(mlp(classes), logits=OTHERWISE[got]))
    network = built(lambda classes: InTraining(mlp(classes), OTHERWISE[got]))
    with pytest.raises(RobbenchError, match=rf"^own_networks:make: expected its forward in training mode to .* {got}$"):
        try_network(network)


def test_a_fault_in_training_mode_is_named(built):
    """Logits of another shape, or an error."""
    network = built(lambda classes: InTraining(mlp(classes), lambda logits: logits[0]))
    with pytest.raises(
        RobbenchError, match=r"expected logits of shape \(2, 10\) for two images in training mode, got \(10,"
    ):
        try_network(network)
    network = built(lambda classes: InTraining(mlp(classes), lambda logits: 1 / 0))
    with pytest.raises(RobbenchError, match="does not take 1x16x16 images in training mode: ZeroDivisionError"):
        try_network(network)


def test_two_images_are_enough_for_batch_normalisation(built):
    """Of one image's features it can compute no statistics."""
    assert (
        try_network(built(lambda classes: nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.BatchNorm1d(8), mlp8())))
        == []
    )


def mlp8():
    """A head for eight features."""
    return nn.Linear(8, 10)


# --- pixels -----------------------------------------------------------------------------------------------------------


def test_a_network_that_sees_a_corner_of_its_images_is_refused(built):
    """As vision transformers do whose patches are larger than half of an image: 10x10 of 16x16 pixels."""
    network = built(lambda classes: nn.Sequential(nn.Conv2d(1, 2, 10, stride=10), nn.Flatten(), nn.Linear(2, classes)))
    with pytest.raises(
        RobbenchError, match="sees whole images, got one that sees 100 of the 256 pixels of 16x16 images"
    ):
        try_network(network)


def test_timms_patches_are_counted():
    """Patches of 16 pixels on a side: one of 28x28 pixels, four of 32x32."""
    name = "timm:vit_tiny_patch16_224"
    with pytest.raises(RobbenchError, match=r"sees 256 of the 784 pixels of 28x28 images"):
        try_network(build(name, classes=10, shape=(1, 28, 28)))
    assert try_network(build(name, classes=10, shape=(1, 32, 32))) == []


def test_a_network_that_misses_an_edge_is_remarked(built):
    """A stride that does not divide the images leaves a row and a column: 15x15 of 16x16 pixels."""
    network = built(lambda classes: nn.Sequential(nn.Conv2d(1, 2, 3, stride=3), nn.Flatten(), nn.Linear(50, classes)))
    assert try_network(network) == [
        "own_networks:make sees 225 of the 256 pixels of 16x16 images: the others have no gradient"
    ]


class Unit(nn.Module):
    """A residual unit as ResNets begin: its branch is switched off, its shortcut takes every other pixel."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4))
        self.shortcut = nn.Conv2d(1, 4, 1, stride=2)
        nn.init.zeros_(self.branch[1].weight)

    def forward(self, images):
        """(N, 1, 16, 16) -> (N, 4, 8, 8)."""
        return self.branch(images) + self.shortcut(images)


def test_a_branch_that_begins_as_zero_counts_as_seen(built):
    """It is switched on by its first update."""
    network = built(lambda classes: nn.Sequential(Unit(), nn.Flatten(), nn.Linear(256, classes)))
    assert try_network(network) == []


def test_a_network_without_any_gradient_is_the_audits_matter(built):
    """Rounded pixels have none."""
    assert (
        try_network(built(lambda classes: nn.Sequential(Through(nn.Identity(), torch.Tensor.round), *mlp(classes))))
        == []
    )


# --- seeds ------------------------------------------------------------------------------------------------------------


def alike(built, change):
    """Share of the weights that two seeds have in common after ``change(network)``."""

    def make(classes):
        network = mlp(classes)
        change(network)
        return network

    return share_alike(built(make, seed=0), built(make, seed=1))


def constant(layer):
    """Fill a layer with values that no seed draws."""
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 1, layer.weight.numel()).view_as(layer.weight))
        layer.bias.copy_(torch.linspace(-1, 1, layer.bias.numel()))


def test_weights_that_do_not_follow_the_seed_are_counted(built):
    """2,146 weights, of which the first layer has 2,056; constants such as zero biases are as good as drawn."""
    assert alike(built, lambda network: None) == 0
    assert alike(built, lambda network: nn.init.zeros_(network[1].bias)) == 0
    assert alike(built, lambda network: constant(network[1])) == 2056 / 2146
    assert alike(built, lambda network: (constant(network[1]), constant(network[3]))) == 1
    assert alike(built, lambda network: (constant(network[1]), network[1].requires_grad_(False))) == 0
