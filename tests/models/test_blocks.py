"""Blocks: the study's by name, timm's and the user's by their structure."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from torch import nn

from robbench.models import Network, blocks, build, parameter_count
from robbench.spec.catalogue import ARCHITECTURE_SHAPES, ARCHITECTURES

LARGE = ("resnet34", "resnet50", "wrn28_10", "wrn34_10", "wideresnet34_10", "wideresnet28_10_swish")
SMALL = [name for name in ARCHITECTURES if name not in LARGE]

TIMM = {
    "resnet26": ("stem", "layer1", "layer2", "layer3", "layer4", "fc"),
    "vit_tiny_patch16_224": ("stem", *(f"blocks.{i}" for i in range(12)), "head"),
    "convnext_atto": ("stem", "stages.0", "stages.1", "stages.2", "stages.3", "head.fc"),
    "mobilenetv3_small_050": ("stem", *(f"blocks.{i}" for i in range(6)), "classifier"),
    "pit_ti_224": ("patch_embed", "transformers", "head"),
}


@pytest.fixture(scope="module", params=TIMM)
def timm_network(request):
    """A small network of timm's for 32x32 images, never downloaded."""
    return build(f"timm:{request.param}", classes=10, shape=(3, 32, 32))


def in_blocks(network):
    """Ids of the parameters of all blocks, as often as they occur."""
    return [id(parameter) for block in blocks(network) for parameter in block.parameters()]


@pytest.mark.parametrize("architecture", SMALL)
def test_named_architectures_have_the_blocks_of_the_catalogue(architecture):
    """Names and order; every parameter is in exactly one of them."""
    network = build(architecture, classes=10, shape=ARCHITECTURE_SHAPES[architecture])
    assert tuple(block.name for block in blocks(network)) == ARCHITECTURES[architecture]
    assert in_blocks(network) == [id(parameter) for parameter in network.parameters()]


def test_the_last_batch_norm_of_a_wide_network_is_in_no_block():
    """Five blocks, and 2 x 64 parameters of the norm outside them."""
    network = build("wrn10_1", classes=10, shape=(3, 8, 8))
    assert [block.name for block in blocks(network)] == ["conv1", "layer1", "layer2", "layer3", "linear"]
    inside = sum(parameter.numel() for block in blocks(network) for parameter in block.parameters())
    assert parameter_count(network) - inside == 2 * 64


def test_average_pooling_is_a_block_without_parameters():
    """That is why TL#2 of a ResNet is TL#1 over again."""
    pool = blocks(build("resnet18", classes=10, shape=(3, 32, 32)))[-2]
    assert (pool.name, list(pool.parameters())) == ("avg_pool", [])


def test_a_dropout_belongs_to_the_block_that_it_feeds():
    """So retraining the last layer alone has its dropout active."""
    found = {block.name: block.modules for block in blocks(build("cnn_dropout", classes=10, shape=(1, 28, 28)))}
    assert [getattr(module, "p", None) for module in found["fc1"]] == [0.25, None]
    assert [getattr(module, "p", None) for module in found["fc2"]] == [0.5, None]


def test_timm_networks_have_timms_stages(timm_network):
    """First to last, the head the last."""
    name = timm_network.architecture.removeprefix("timm:")
    assert tuple(block.name for block in blocks(timm_network)) == TIMM[name]


def test_every_parameter_of_a_timm_network_is_in_one_block(timm_network):
    """Class tokens and position embeddings, which belong to no module, included."""
    assert sorted(in_blocks(timm_network)) == sorted(id(parameter) for parameter in timm_network.parameters())


def test_the_head_of_a_timm_network_is_its_classifier_alone(timm_network):
    """The norm before it goes with the last features."""
    head = blocks(timm_network)[-1]
    classifier = timm_network.body.get_classifier()
    assert [id(p) for p in head.parameters()] == [id(p) for p in classifier.parameters()]


class Odd(nn.Module):
    """A parameter of its own, parts without parameters, a norm without, and a dropout defined last."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(nn.Linear(1, 1).weight)
        self.act = nn.ReLU()
        self.features = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2, affine=False)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(8, 3)
        self.dropout = nn.Dropout()


def test_any_other_network_has_its_children_as_blocks():
    """Parts without parameters go with what they feed, statistics with what they follow, the rest joins the ends."""
    body = Odd()
    first, last = blocks(Network(body, architecture="my.code:odd", shape=(1, 4, 4), head="head"))
    assert (first.name, first.modules, first.loose) == (
        "features",
        (body.act, body.features, body.norm),
        (body.scale,),
    )
    assert (last.name, last.modules, last.loose) == ("head", (body.flatten, body.head, body.dropout), ())


def wrapped(body, depth):
    """A network inside others, of which one has a parameter of its own and one a layer without."""
    outer = body
    for _ in range(depth):
        outer = nn.Sequential(OrderedDict(normalise=nn.Flatten(0, 0), model=outer))
    outer.register_parameter("scale", nn.Parameter(nn.Linear(1, 1).weight))
    return outer


@pytest.mark.parametrize("depth", [1, 2])
def test_a_network_inside_another_has_its_own_blocks(depth):
    """However many wrap it; their parameters go with its first block, and the head is the last block alone."""
    body = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(1, 2, 3), flat=nn.Flatten(), fc1=nn.Linear(8, 4), fc2=nn.Linear(4, 3))
    )
    network = Network(wrapped(body, depth), architecture="my.code:odd", shape=(1, 4, 4), head="model." * depth + "fc2")
    found = blocks(network)
    assert [block.name for block in found] == ["conv", "fc1", "fc2"]
    assert sorted(in_blocks(network)) == sorted(id(parameter) for parameter in network.parameters())
    assert list(found[2].parameters()) == list(body.fc2.parameters())
    assert found[0].loose == (network.body.scale,)


def test_layers_in_a_list_are_blocks():
    """A list is a wrapper, too; one layer is not."""

    class Listed(nn.Module):
        def __init__(self, *layers):
            super().__init__()
            self.layers = nn.ModuleList(layers)

    def names(body):
        return [block.name for block in blocks(Network(body, architecture="my.code:odd", shape=(1, 4, 4), head=""))]

    assert names(Listed(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))) == ["0", "2"]
    assert names(Listed(nn.Linear(2, 2))) == ["0"]
    assert names(nn.Sequential(nn.Flatten(), nn.Linear(2, 2))) == ["1"]
