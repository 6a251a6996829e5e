"""Facts by name: classes, shapes, statistics, blocks; and the wide residual networks that can exist."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robbench.errors import RobbenchError
from robbench.spec.catalogue import (
    ARCHITECTURE_SHAPES,
    ARCHITECTURES,
    DATASETS,
    EMNIST_CLASSES,
    block_names,
    own_module,
    wrn_size,
)


def test_datasets_are_the_published_ones():
    """Grey 28×28 for the characters, RGB 32×32 for CIFAR, which alone is normalised and augmented."""
    grey, rgb = (1, 28, 28), (3, 32, 32)
    assert {name: (facts.classes, facts.shape) for name, facts in DATASETS.items()} == {
        "mnist": (10, grey),
        "emnist": (47, grey),
        "cifar10": (10, rgb),
        "cifar100": (100, rgb),
        "glyphs10": (10, grey),
        "glyphs47": (47, grey),
    }
    assert {name for name, facts in DATASETS.items() if facts.mean and facts.augmentation != "none"} == {
        "cifar10",
        "cifar100",
    }
    assert len(EMNIST_CLASSES) == len(set(EMNIST_CLASSES)) == 47
    assert (EMNIST_CLASSES[10], "".join(EMNIST_CLASSES[36:])) == ("A", "abdefghnqrt")


def test_blocks_of_every_architecture():
    """K is 4, 3, 4, 7 for the study's small networks, 7, 6 and 5 for ResNets, which take RGB images."""
    small = {"relu_4_1024": 4, "cnn3": 3, "cnn4": 4, "cnn7": 7, "cnn_dropout": 4, "cnn_small": 4, "relu_2_64": 3}
    large = {"resnet18": 7, "resnet34": 7, "resnet50": 7, "wrn28_10": 5, "wrn34_10": 5}
    large |= {"preactresnet18": 6, "preactresnet18_bn": 6, "preactresnet18_raw": 6}
    large |= {"wideresnet28_10": 5, "wideresnet34_10": 5, "wideresnet28_10_swish": 5}
    assert {name: len(blocks) for name, blocks in ARCHITECTURES.items()} == small | large
    assert ARCHITECTURES["resnet18"][-2:] == ("avg_pool", "fc")
    assert {name for name, shape in ARCHITECTURE_SHAPES.items() if shape == (3, 32, 32)} == large.keys()


@given(
    st.integers(0, 60), st.integers(0, 12), st.sampled_from(["wrn{}_{}", "wideresnet{}_{}", "wideresnet{}_{}_swish"])
)
def test_a_wide_network_exists_where_its_depth_is_6n_plus_4(depth, width, form):
    """Its size is read from its name; any other depth is an error whose suggestion exists."""
    name = form.format(depth, width)
    if depth >= 10 and depth % 6 == 4 and width:
        assert wrn_size(name) == (depth, width)
        expected = ARCHITECTURES["wrn28_10" if form.startswith("wrn") else "wideresnet28_10"]
        assert block_names(name) == expected
        return
    with pytest.raises(RobbenchError, match=f"got depth {depth}, width {width}; use") as caught:
        block_names(name)
    assert wrn_size(str(caught.value).rpartition("use ")[2].strip("'")) is not None


@pytest.mark.parametrize(
    ("name", "module"),
    [("timm:resnet26", None), ("my.package.networks:build", "my.package.networks"), ("networks:Net", "networks")],
)
def test_only_the_built_network_knows_the_blocks_of_others(name, module):
    """Networks of timm, and functions in a module of one's own."""
    assert block_names(name) is None
    assert own_module(name) == module


@pytest.mark.parametrize("name", ["timm:", "cnn8", "", "a:b:c", "../x:y", "wrn28", "cnn7 ", "wrn28_10_swish"])
def test_an_unknown_architecture_is_refused(name):
    """With everything that is known."""
    with pytest.raises(RobbenchError, match=r"unknown architecture .*; expected one of .*cnn7.*timm:<name"):
        block_names(name)
