"""Facts by name: classes, shapes, statistics, blocks; and the wide residual networks that can exist."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robbench.errors import RobbenchError
from robbench.spec.catalogue import (
    ARCHITECTURE_SHAPES,
    ARCHITECTURES,
    DATASETS,
    EMNIST_CLASSES,
    block_names,
    wrn_size,
)


@pytest.mark.parametrize(
    ("name", "classes", "shape"),
    [
        ("mnist", 10, (1, 28, 28)),
        ("emnist", 47, (1, 28, 28)),
        ("cifar10", 10, (3, 32, 32)),
        ("cifar100", 100, (3, 32, 32)),
        ("glyphs10", 10, (1, 28, 28)),
        ("glyphs47", 47, (1, 28, 28)),
    ],
)
def test_classes_and_shapes(name, classes, shape):
    """Grey 28×28 for the characters, RGB 32×32 for CIFAR."""
    assert (DATASETS[name].classes, DATASETS[name].shape) == (classes, shape)


def test_only_cifar_is_normalised_and_augmented():
    """With the published statistics, one per channel."""
    normalised = {name for name, facts in DATASETS.items() if facts.mean or facts.std}
    assert normalised == {name for name, facts in DATASETS.items() if facts.augmentation == "crop-flip"}
    assert normalised == {"cifar10", "cifar100"}
    assert DATASETS["cifar10"].mean == (0.4914, 0.4822, 0.4465)
    assert DATASETS["cifar10"].std == (0.2470, 0.2435, 0.2616)
    assert DATASETS["cifar100"].mean == (0.5071, 0.4865, 0.4409)
    assert DATASETS["cifar100"].std == (0.2673, 0.2564, 0.2762)


def test_emnist_has_47_classes():
    """Ten digits, 26 capitals, and the eleven small letters whose form differs from their capital's."""
    assert len(EMNIST_CLASSES) == len(set(EMNIST_CLASSES)) == 47
    assert EMNIST_CLASSES[10] == "A"
    assert "".join(EMNIST_CLASSES[36:]) == "abdefghnqrt"


def test_blocks_of_every_architecture():
    """K is 4, 3, 4, 7 for the study's small networks, 7 for ResNets, 5 for wide ones."""
    assert {name: len(blocks) for name, blocks in ARCHITECTURES.items()} == {
        "relu_4_1024": 4,
        "cnn3": 3,
        "cnn4": 4,
        "cnn7": 7,
        "cnn_dropout": 4,
        "resnet18": 7,
        "resnet34": 7,
        "resnet50": 7,
        "wrn28_10": 5,
        "wrn34_10": 5,
    }
    assert ARCHITECTURES["resnet18"][-2:] == ("avg_pool", "fc")
    assert {name for name, shape in ARCHITECTURE_SHAPES.items() if shape == (3, 32, 32)} == {
        "resnet18",
        "resnet34",
        "resnet50",
        "wrn28_10",
        "wrn34_10",
    }


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.integers(0, 12))
def test_a_wide_network_exists_where_its_depth_is_6n_plus_4(depth, width):
    """Its size is read from its name; any other depth is an error whose suggestion exists."""
    name = f"wrn{depth}_{width}"
    if depth >= 10 and depth % 6 == 4 and width:
        assert wrn_size(name) == (depth, width)
        assert block_names(name) == ("conv1", "layer1", "layer2", "layer3", "linear")
        return
    with pytest.raises(RobbenchError, match="cannot exist") as caught:
        block_names(name)
    suggestion = str(caught.value).rpartition("use ")[2].strip("'")
    assert wrn_size(suggestion) is not None


def test_the_studys_wrn_32_10_cannot_exist():
    """The message says why, and names a network that does exist."""
    with pytest.raises(RobbenchError) as caught:
        block_names("wrn32_10")
    assert str(caught.value) == (
        "architecture 'wrn32_10' cannot exist: a wide residual network has depth 6n + 4 (10, 16, 22, 28, 34, …) "
        "and width of at least 1, got depth 32, width 10; use 'wrn34_10'"
    )


@pytest.mark.parametrize("name", ["timm:resnet26", "my.package.networks:build", "networks:Net"])
def test_only_the_built_network_knows_the_blocks_of_others(name):
    """Timm networks and own functions."""
    assert block_names(name) is None
    assert wrn_size(name) is None


@pytest.mark.parametrize("name", ["timm:", "cnn8", "", "a:b:c", "../x:y", "wrn28", "cnn7 "])
def test_an_unknown_architecture_is_refused(name):
    """With everything that is known."""
    with pytest.raises(RobbenchError, match=r"unknown architecture .*; expected one of .*cnn7.*timm:<name"):
        block_names(name)


def test_a_near_miss_is_named():
    """cnn8 is nearest to a cnn."""
    with pytest.raises(RobbenchError, match="did you mean 'resnet34'"):
        block_names("resnet43")


def test_facts_and_specs_need_no_torch():
    """Nor do comparison, report, terminal and command line, all imported in a fresh interpreter."""
    modules = [
        "catalogue",
        "spec",
        "recipes",
        "adapt",
        "record",
        "compare",
        "baselines",
        "published",
        "report",
        "terminal",
        "cli",
    ]
    program = (
        f"import sys; import {', '.join('robbench.' + module for module in modules)}; "
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'torchvision', 'timm', 'pytest'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
