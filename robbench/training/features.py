"""Features of frozen blocks, computed once: conventional retraining without augmentation starts every epoch from them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor, nn

from robbench.attacks import evaluating
from robbench.data import Images, ImageSource, pixels
from robbench.machine.flops import forward_flops
from robbench.machine.memory import Batches, free_bytes
from robbench.machine.onednn import dense
from robbench.models import Network
from robbench.spec import Recipe
from robbench.training.updates import autocast, device_of

MEMORY_SHARE = 0.25
"""Share of the device's free memory that features may take."""

FLOPS_PER_BYTE = 100
"""Least arithmetic that a byte of features must save: 4 to 50 gained nothing, 390 did (``suites/perf/test_transfer.py``)."""


class Features(Images):
    """Images as the first layers see them: ``images`` are (N, ...) floats."""

    def __post_init__(self) -> None:
        pass


@dataclass(frozen=True)
class Learner:
    """What every epoch runs: the network on its images, or its last layers on the features of the first ones."""

    network: nn.Module
    training: ImageSource
    validation: ImageSource


def on_features(
    whole: Learner, recipe: Recipe, frozen: Collection[nn.Module], notes: list[str], reuse: bool | None
) -> Learner:
    """The learner that starts from features, or ``whole``, the network on its images.

    Both round differently, so a resumed training says by ``reuse`` which of the two it was. With None, features are used
    if that pays and memory suffices.
    """
    parts = frozen_part(whole.network, frozen)
    if parts is None:
        return whole
    first, last = parts
    sources = whole.training, whole.validation
    with evaluating(first), autocast(recipe.precision, device_of(whole.network)):
        if reuse is None:
            example = whole.training.take(torch.zeros(1, dtype=torch.int64)).images
            reuse = worth_keeping(first, sum(map(len, sources)), example)
        if not reuse:
            return whole
        batches = Batches("the frozen blocks' features", recipe.batch_size, notes)
        return Learner(last, *(extract(first, source, batches) for source in sources))


def frozen_part(network: nn.Module, frozen: Collection[nn.Module]) -> tuple[nn.Module, nn.Module] | None:
    """The network split before its first layer that learns; None if no layer before it has weights."""
    if not isinstance(network, Network) or not isinstance(network.body, nn.Sequential):
        return None
    body, known = network.body, set(frozen)
    first = tuple(takewhile(lambda layer: layer in known and _fixed(layer), body))
    if not any(True for layer in first for _ in layer.parameters()):
        return None
    return nn.Sequential(network.normalise, *first), nn.Sequential(*body[len(first) :])


def _fixed(layer: nn.Module) -> bool:
    """Whether a layer in eval mode gives an image the same features in every epoch and every batch."""
    learns = any(parameter.requires_grad for parameter in layer.parameters())
    return not learns and all(getattr(module, "track_running_stats", True) for module in layer.modules())


def worth_keeping(part: nn.Module, images: int, example: Tensor) -> bool:
    """Whether features save enough arithmetic for their size, and those of so many images fit in their share of memory."""
    with torch.no_grad():
        one = dense(part(pixels(example)))
    size = one.numel() * one.element_size()
    pays = forward_flops(part, pixels(example)) >= FLOPS_PER_BYTE * size
    return bool(pays and images * size <= MEMORY_SHARE * free_bytes(example.device))


def extract(part: nn.Module, source: ImageSource, batches: Batches) -> Features:
    """The features of all images, by the frozen layers in eval mode."""
    device = device_of(part)
    labels = source.labels.to(device)
    features: Tensor | None = None

    def keep(chosen: slice) -> None:
        nonlocal features
        index = torch.arange(chosen.start, chosen.stop, device=source.labels.device)
        found = dense(part(pixels(source.take(index).images)))
        if features is None:  # allocated once, because memory was asked for one set of features
            features = found.new_empty(len(source), *found.shape[1:])
        features[chosen] = found

    with torch.no_grad():
        batches.over(len(source), device, keep)
    assert features is not None
    return Features(features, labels)
