"""Features of frozen blocks, computed once: what conventional retraining without augmentation starts every epoch from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor, nn

from robbench.data import Images, pixels
from robbench.machine.flops import forward_flops
from robbench.machine.memory import Batches, free_bytes
from robbench.machine.onednn import dense
from robbench.models import Network

MEMORY_SHARE = 0.25
"""Of the device's free memory that features may take."""

FLOPS_PER_BYTE = 100
"""Least arithmetic that a byte of features must save. Below it, what a first convolution spares is lost to moving its
many features: measured on a CPU, networks with 4 to 50 were slower with features or as fast, with 390 and more faster (with 0 here
``suites/perf/test_transfer.py`` shows it again); between arithmetic and memory of a GPU lies about as much."""


@dataclass(frozen=True, eq=False)
class Features:
    """Images as their first layers see them, in place of :class:`robbench.data.Images`."""

    images: Tensor
    """(N, ...) floats."""
    labels: Tensor
    """(N,) int64."""

    def __len__(self) -> int:
        return len(self.labels)


def frozen_part(network: nn.Module, held: Collection[nn.Module]) -> tuple[nn.Module, nn.Module] | None:
    """The layers in front of the first one that learns, normalisation included, and the others; both share weights.

    None where there is nothing to save: the network's body is no sequence of layers, or none of its parameters come in
    front of those that learn.
    """
    if not isinstance(network, Network) or not isinstance(network.body, nn.Sequential):
        return None
    body = network.body
    names = {id(module) for module in held}
    first = tuple(takewhile(lambda layer: id(layer) in names and _fixed(layer), body))
    if not any(True for layer in first for _ in layer.parameters()):
        return None
    return nn.Sequential(network.normalise, *first), nn.Sequential(*body[len(first) :])


def _fixed(layer: nn.Module) -> bool:
    """Whether a layer in eval mode gives an image the same features in every epoch and every batch."""
    learns = any(parameter.requires_grad for parameter in layer.parameters())
    return not learns and all(getattr(module, "track_running_stats", True) for module in layer.modules())


def worth_keeping(part: nn.Module, images: int, example: Tensor) -> bool:
    """Whether features save enough arithmetic for their size, and those of so many images fit in their share of memory.

    Args:
        part: the frozen layers, in eval mode.
        images: how many.
        example: (1, C, H, W), one of them.
    """
    with torch.no_grad():
        one = dense(part(pixels(example)))
    size = one.numel() * one.element_size()
    pays = forward_flops(part, pixels(example)) >= FLOPS_PER_BYTE * size
    return bool(pays and images * size <= MEMORY_SHARE * free_bytes(example.device))


def extract(part: nn.Module, images: Images, batches: Batches) -> Features:
    """The features of all images, by the frozen layers in eval mode."""
    features: Tensor | None = None

    def keep(chosen: slice) -> None:
        nonlocal features
        found = dense(part(pixels(images.images[chosen])))
        if features is None:  # at once, not joined at the end: memory for one set of features was asked for
            features = found.new_empty(len(images), *found.shape[1:])
        features[chosen] = found

    with torch.no_grad():
        batches.over(len(images), images.images.device, keep)
    assert features is not None
    return Features(features, images.labels)
