"""Facts about the datasets and architectures that robbench knows by name."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from robbench.errors import RobbenchError, unknown


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What is known of a dataset before any image is read."""

    classes: int
    shape: tuple[int, int, int]
    """Channels, height, width."""
    train: int
    test: int
    """Numbers of images; the default of a drawn dataset."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augmentation: str = "none"
    """As in the literature."""
    transposed: bool = False
    """Whether it is stored transposed, as EMNIST is."""


def _cifar(classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> DatasetFacts:
    facts = DatasetFacts(classes=classes, shape=(3, 32, 32), train=50_000, test=10_000, augmentation="crop-flip")
    return replace(facts, mean=mean, std=std)


DATASETS: dict[str, DatasetFacts] = {
    "mnist": DatasetFacts(classes=10, shape=(1, 28, 28), train=60_000, test=10_000),
    "emnist": DatasetFacts(classes=47, shape=(1, 28, 28), train=112_800, test=18_800, transposed=True),
    "cifar10": _cifar(10, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "cifar100": _cifar(100, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
    "glyphs10": DatasetFacts(classes=10, shape=(1, 28, 28), train=4_000, test=1_000),
    "glyphs47": DatasetFacts(classes=47, shape=(1, 28, 28), train=6_000, test=1_000, transposed=True),
}
"""Any other name is a prepared array ``<data dir>/<name>.npz``."""


def plain_name(name: str) -> bool:
    """Whether a dataset's name leads into no other folder."""
    return re.fullmatch(r"\w[\w.+-]*", name) is not None and ".." not in name


EMNIST_CLASSES = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")
"""The 47 classes of EMNIST balanced, in label order (Cohen et al. 2017)."""

_RESNET_BLOCKS = ("conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x", "avg_pool", "fc")
_PREACT_BLOCKS = ("conv1", "layer1", "layer2", "layer3", "layer4", "linear")
_WRN_BLOCKS = ("conv1", "layer1", "layer2", "layer3", "linear")
_WIDERESNET_BLOCKS = ("conv1", "block1", "block2", "block3", "fc")

ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "relu_4_1024": ("fc1", "fc2", "fc3", "fc4"),
    "cnn3": ("conv1", "fc1", "fc2"),
    "cnn4": ("conv1", "conv2", "fc1", "fc2"),
    "cnn7": ("conv1", "conv2", "conv3", "conv4", "fc1", "fc2", "fc3"),
    "cnn_dropout": ("conv1", "conv2", "fc1", "fc2"),
    "cnn_small": ("conv1", "conv2", "fc1", "fc2"),
    "relu_2_64": ("fc1", "fc2", "fc3"),
    "resnet18": _RESNET_BLOCKS,
    "resnet34": _RESNET_BLOCKS,
    "resnet50": _RESNET_BLOCKS,
    "wrn28_10": _WRN_BLOCKS,
    "wrn34_10": _WRN_BLOCKS,
    "preactresnet18": _PREACT_BLOCKS,
    "preactresnet18_bn": _PREACT_BLOCKS,
    "preactresnet18_raw": _PREACT_BLOCKS,
    "wideresnet28_10": _WIDERESNET_BLOCKS,
    "wideresnet34_10": _WIDERESNET_BLOCKS,
    "wideresnet28_10_swish": _WIDERESNET_BLOCKS,
}
"""The study's architectures with two small ones to certify, then those that robust weights are published for; and their
blocks, first to last.

``preactresnet18_bn`` has a batch norm before its linear layer (Rice et al. 2020). The shortcuts of ``preactresnet18_raw``
start before the activation (Wong et al. 2020, Andriushchenko et al. 2020); its tensors have the names and shapes of
``preactresnet18``. ``wideresnetD_W`` is the wide ResNet of TRADES and RobustBench, ``wideresnetD_W_swish`` that of Gowal et
al. 2020; the study's ``wrnD_W`` has biases, dropout and other shortcuts.
"""

TWINS = {"preactresnet18": "preactresnet18_raw", "preactresnet18_raw": "preactresnet18"}
"""Architectures whose weights cannot be told apart: only what they compute differs."""

ARCHITECTURE_SHAPES: dict[str, tuple[int, int, int]] = {
    name: (3, 32, 32) if "resnet" in name or name.startswith("wrn") else (1, 28, 28) for name in ARCHITECTURES
}
"""Channels, height and width of their images; residual networks take other sizes too."""


def wrn_size(name: str) -> tuple[int, int] | None:
    """Depth (6n + 4, Zagoruyko and Komodakis 2016) and width of ``wrn28_10`` or ``wideresnet28_10``; None of any other."""
    match = re.fullmatch(r"(?:(wrn)|(wideresnet))(\d+)_(\d+)((?(2)(?:_swish)?))", name)
    if match is None:
        return None
    depth, width = int(match[3]), int(match[4])
    if depth < 10 or (depth - 4) % 6 or width < 1:
        near = max(10, 6 * round((depth - 4) / 6) + 4)
        raise RobbenchError(
            f"architecture {name!r}: expected depth 6n + 4 (10, 16, 22, …) and width ≥ 1, got depth {depth}, "
            f"width {width}; use '{match[1] or match[2]}{near}_{max(1, width)}{match[5]}'"
        )
    return depth, width


def own_module(architecture: str) -> str | None:
    """The module of a user's own network: ``mypackage.nets`` of ``mypackage.nets:small``; None of any other."""
    module, colon, _ = architecture.partition(":")
    return module if colon and module != "timm" else None


def block_names(architecture: str) -> tuple[str, ...] | None:
    """Names of a known architecture's blocks, first to last; None if only the built network can tell."""
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture]
    if wrn_size(architecture):
        return _WRN_BLOCKS if architecture.startswith("wrn") else _WIDERESNET_BLOCKS
    if re.fullmatch(r"timm:\S+|[A-Za-z_][\w.]*:[A-Za-z_]\w*", architecture):
        return None
    others = ["timm:<name of a timm network>", "<package.module>:<function>"]
    raise unknown("architecture", architecture, [*ARCHITECTURES, *others])
