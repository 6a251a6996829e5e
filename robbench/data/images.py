"""Images and labels as tensors, and a dataset as two of those."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from robbench.errors import require


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images on one device.

    Raises:
        RobbenchError: a tensor has another dtype or shape than written below.
    """

    images: Tensor
    """(N, C, H, W) uint8."""
    labels: Tensor
    """(N,) int64."""

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        require(images.dtype == torch.uint8 and images.ndim == 4, "images", "(N, C, H, W) uint8", _kind(images))
        require(
            labels.dtype == torch.int64 and labels.shape == images.shape[:1],
            "labels",
            f"({len(images)},) int64",
            _kind(labels),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Images:
        """The same images on ``device``."""
        return Images(self.images.to(device), self.labels.to(device))

    def take(self, indices: Tensor) -> Images:
        """The images at ``indices``, (M,) int64, in that order; indices may lie on another device."""
        here = indices.to(self.labels.device)
        return Images(self.images[here], self.labels[here])


@dataclass(frozen=True, eq=False)
class Data:
    """A dataset: what to train on, what to test on, and what the labels mean."""

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def sha256(self) -> str:
        """Hex digest over images, labels and classes; the name does not count. Computed on first use."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for part in (self.train, self.test):
            for tensor in (part.images, part.labels):
                digest.update(_kind(tensor).encode())
                digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
