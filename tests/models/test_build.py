"""Building networks: parameter counts of the thesis, input shapes, seeds, timm's networks and the user's own."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch
from torch import nn

from robbench.errors import RobbenchError
from robbench.models import build, parameter_count, weights
from robbench.spec.catalogue import ARCHITECTURE_SHAPES, ARCHITECTURES

GREY, COLOUR = (1, 28, 28), (3, 32, 32)

COUNTS = {
    "relu_4_1024": (2_913_290, 2_951_215),
    "cnn3": (3_213_514, 3_218_287),
    "cnn4": (3_274_634, 3_312_559),
    "cnn7": (312_202, 319_639),
    "cnn_dropout": (1_199_882, 1_204_655),
    "cnn_small": (166_406, 170_143),
    "relu_2_64": (55_050, 57_455),
    "resnet18": (11_173_962, 11_220_132),
    "resnet34": (21_282_122, 21_328_292),
    "resnet50": (23_520_842, 23_705_252),
    "wrn28_10": (36_489_290, 36_546_980),
    "wrn34_10": (46_172_810, 46_230_500),
    "preactresnet18": (11_171_146, 11_217_316),
    "preactresnet18_bn": (11_172_170, 11_218_340),
    "preactresnet18_raw": (11_171_146, 11_217_316),
    "wideresnet28_10": (36_479_194, 36_536_884),
    "wideresnet34_10": (46_160_474, 46_218_164),
    "wideresnet28_10_swish": (36_479_194, 36_536_884),
}
"""Parameters with 10 classes, and with the target's 47 or 100: the study's, then those of published robust networks."""


def test_every_architecture_of_the_catalogue_is_counted():
    """An architecture added to the catalogue needs its count here."""
    assert COUNTS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("architecture", COUNTS)
def test_parameter_counts_are_the_published_ones(architecture):
    """With the source's classes and with the target's."""
    shape = ARCHITECTURE_SHAPES[architecture]
    target = 47 if shape == GREY else 100
    counted = tuple(parameter_count(build(architecture, classes=n, shape=shape)) for n in (10, target))
    assert counted == COUNTS[architecture]


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [
        ("relu_4_1024", "Flatten Linear ReLU Linear ReLU Linear ReLU Linear"),
        ("cnn3", "Conv2d ReLU Flatten Linear Linear"),
        ("cnn4", "Conv2d ReLU MaxPool2d Conv2d ReLU MaxPool2d Flatten Linear ReLU Linear"),
    ],
)
def test_layers_come_in_the_order_of_the_study(architecture, layers):
    """Above all, cnn3 has no ReLU between its two fully connected layers."""
    body = build(architecture, classes=10, shape=GREY).body
    assert [type(layer).__name__ for layer in body] == layers.split()


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [*((name, GREY) for name in [*COUNTS][:5]), *itertools.product(("resnet18", "wrn10_1"), [(1, 8, 8), (3, 7, 20)])],
)
def test_logits_have_one_row_per_image(architecture, shape):
    """The plain networks take grey images of one size, the residual ones others too."""
    network = build(architecture, classes=47, shape=shape)
    assert network(torch.rand(2, *shape)).shape == (2, 47)
    assert network.training


def test_wide_networks_drop_out_and_have_biases():
    """Dropout 0.3 in every unit, a bias in every convolution."""
    modules = list(build("wrn16_2", classes=10, shape=COLOUR).modules())
    assert [m.p for m in modules if isinstance(m, nn.Dropout)] == [0.3] * 6
    assert all(m.bias is not None for m in modules if isinstance(m, nn.Conv2d))


def test_a_seed_decides_every_weight_and_nothing_else():
    """The same seed gives the same weights, another gives others, and the caller's generator does not move."""
    before = torch.get_rng_state()
    first, again, other = (weights(build("cnn7", classes=10, shape=GREY, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        (
            "cnn7",
            {"shape": COLOUR},
            "cnn7 takes 1x28x28 images, got 3x32x32; pictures get that by size=28, channels=1 of",
        ),
        ("cnn77", {}, r"unknown architecture 'cnn77'.*did you mean 'cnn7'"),
        ("wrn32_10", {}, "expected depth 6n \\+ 4"),
        ("cnn7", {"mean": (0.1, 0.2), "std": (1.0, 1.0)}, "mean: expected 1 values"),
        ("timm:resnet62", {}, "unknown timm network 'resnet62'; did you mean resnet26 or "),
        ("timm:hf-hub:someone/something", {}, "unknown timm network"),
        ("timm:repvit_m0_9", {}, "expected one nn.Linear as its classifier, got RepVitClassifier"),
        ("robbench.errors:nothing", {}, r"tried `from robbench.errors import nothing`"),
        ("robbench.errors:unknown", {}, r"called with classes=10, shape=.*TypeError"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(architecture, options, message):
    """Each message names what was expected and what came."""
    with pytest.raises(RobbenchError, match=message):
        build(architecture, **{"classes": 10, "shape": GREY, **options})


OWN = """
import torch
from torch import nn

def small(classes, shape):
    features = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, classes))

def convolutional(classes, shape):
    return nn.Sequential(nn.Conv2d(shape[0], classes, shape[1]), nn.Flatten())

def stubborn(classes, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 1000))

def narrow(classes, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(5, classes))

def maps(classes, shape):
    return nn.Sequential(nn.Linear(shape[2], classes))

def nothing(classes, shape):
    return None

def vast(classes, shape):
    raise MemoryError

def picky(classes, shape):
    return {3: None}[shape[0]]

def wrapped(classes, shape):
    return nn.Sequential(nn.Sequential(small(classes, shape), nn.Identity()))

def empty(classes, shape):
    return nn.Identity()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's with networks, importable as ``own_networks``."""
    (tmp_path / "own_networks.py").write_text(OWN)
    (tmp_path / "broken_networks.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_networks", None)


@pytest.mark.usefixtures("own")
def test_a_function_of_the_user_is_built_from_the_seed():
    """It gets classes and shape, and draws its weights from the seed."""
    first, again, other = (build("own_networks:small", classes=7, shape=GREY, seed=seed) for seed in (1, 1, 2))
    assert first(torch.rand(2, *GREY)).shape == (2, 7)
    assert torch.equal(first.body[1].weight, again.body[1].weight)
    assert not torch.equal(first.body[1].weight, other.body[1].weight)


@pytest.mark.usefixtures("own")
def test_the_head_of_a_wrapped_network_is_found():
    """The last nn.Linear of the network inside."""
    network = build("own_networks:wrapped", classes=7, shape=GREY)
    assert (network.head, network.classes) == ("0.0.3", 7)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("own_networks:convolutional", "expected an nn.Linear with 10 outputs at the end of .*got Conv2d"),
        ("own_networks:empty", "expected an nn.Linear with 10 outputs at the end of .*got Identity"),
        ("own_networks:stubborn", "expected an nn.Linear with 10 outputs at the end of .*got Linear"),
        ("own_networks:narrow", "does not take 1x28x28 images"),
        ("own_networks:maps", r"expected logits of shape \(2, 10\) for two images, got \(2, 1, 28, 10\)"),
        ("own_networks:nothing", "expected an nn.Module from the function, got 'NoneType'"),
        ("own_networks:picky", r"called with classes=10, shape=\(1, 28, 28\), got KeyError\(1\)"),
        ("own_networks:vast", "out of memory: own_networks:vast does not fit"),
        ("broken_networks:f", "ZeroDivisionError"),
    ],
)
def test_a_function_whose_network_does_not_fit_is_refused(function, message):
    """The message says what the network lacks."""
    with pytest.raises(RobbenchError, match=message):
        build(function, classes=10, shape=GREY)
