"""Labelled images, in memory or read when they are taken, and a dataset of two such sources."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Protocol, Self, cast

import torch
from torch import Tensor

from robbench.errors import require

IMBALANCED = 1.5
"""Times as many images in the largest class as in the smallest, from which `report.md` tells classes apart."""


class ImageSource(Protocol):
    """Labelled images that can be taken by their index, wherever they lie."""

    def __len__(self) -> int: ...

    @property
    def labels(self) -> Tensor:
        """(N,) int64, on the CPU or where the images are."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of images and labels."""

    def take(self, index: Tensor) -> Images:
        """The images at ``index``, (M,) int64, in that order; called from a thread, so it draws no random numbers."""

    def to(self, device: torch.device | str) -> ImageSource:
        """The same images; those that are taken lie on ``device``."""


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images in the memory of one device; a RobbenchError where a tensor has another dtype or shape."""

    images: Tensor
    """(N, C, H, W) uint8, or floats in [0, 1]."""
    labels: Tensor
    """(N,) int64."""

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        fits = (images.dtype == torch.uint8 or images.is_floating_point()) and images.ndim == 4
        require(fits, "images", "(N, C, H, W) uint8 or floats", _kind(images))
        fits = labels.dtype == torch.int64 and labels.shape == images.shape[:1]
        require(fits, "labels", f"({len(images)},) int64", _kind(labels))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return cast(tuple[int, int, int], tuple(self.images.shape[1:]))

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of images and labels."""
        return _digest(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """What a digest is made of."""
        for tensor in (self.images, self.labels):
            yield _kind(tensor).encode()
            yield tensor.cpu().numpy().tobytes()

    def to(self, device: torch.device | str) -> Self:
        """The same images on ``device``."""
        return type(self)(self.images.to(device), self.labels.to(device))

    def take(self, index: Tensor) -> Self:
        """The images at ``index``, (M,) int64, in that order; the index may lie on another device."""
        here = index.to(self.labels.device)
        return type(self)(self.images[here], self.labels[here])


@dataclass(frozen=True, eq=False)
class Subset:
    """Some images of a source that does not lie in memory."""

    source: ImageSource
    index: Tensor
    """(M,) int64 on the CPU: which images, in which order."""
    device: torch.device | str | None = None
    """Where those that are taken lie; None: where the source takes them."""
    side: int | None = None
    """Of the central square that is taken of each; None: the whole."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def labels(self) -> Tensor:
        """(M,) int64."""
        return self.source.labels[self.index.to(self.source.labels.device)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.source.shape
        return (channels, height, width) if self.side is None else (channels, self.side, self.side)

    @property
    def fingerprint(self) -> str:
        """Hex digest of the source and the index."""
        return _digest([self.source.fingerprint.encode(), self.index.numpy().tobytes()])

    def take(self, index: Tensor) -> Images:
        """The images at ``index`` of this subset."""
        return self.finished(self.source.take(self.index[index.cpu()]))

    def finished(self, taken: Images) -> Images:
        """Images that were taken from the source, cropped, on their device."""
        if self.side is not None:
            taken = Images(centre(taken.images, self.side), taken.labels)
        return taken if self.device is None else taken.to(self.device)

    def to(self, device: torch.device | str) -> Subset:
        """The same images; those that are taken lie on ``device``."""
        return replace(self, device=device)


def subset(source: ImageSource, index: Tensor, *, side: int | None = None) -> ImageSource:
    """Some images of a source: taken at once where they lie in memory, otherwise when they are asked for.

    With a ``side`` the central square of each.
    """
    chosen = Subset(source, index, side=side)
    return chosen.take(torch.arange(len(index))) if isinstance(source, Images) else chosen


def some_of(there: int, count: int, seed: int) -> Tensor:
    """Ascending places of ``count`` images at most, drawn at random; fewer are among those of a larger count."""
    if count >= there:
        return torch.arange(there)
    order = torch.randperm(there, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values


def centre(images: Tensor, side: int) -> Tensor:
    """The central square of (N, C, H, W) images, contiguous; as torchvision's CenterCrop."""
    height, width = images.shape[2:]
    if height == width == side:
        return images
    top, left = round((height - side) / 2), round((width - side) / 2)
    return images[:, :, top : top + side, left : left + side].contiguous()


@dataclass(frozen=True, eq=False)
class Data:
    """A dataset: what to train on, what to test on, and what the labels mean."""

    name: str
    train: ImageSource
    test: ImageSource
    classes: tuple[str, ...]
    sha256: str | None = None
    """Its fingerprint, where that is known without reading the images."""
    notes: tuple[str, ...] = ()
    """What the record of a stage must say of them."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width that a network gets; images to train on may be larger, to be cropped at random."""
        return self.test.shape

    @cached_property
    def imbalanced(self) -> bool:
        """Whether the largest class has :data:`IMBALANCED` times the images to train on of the smallest, or more."""
        counts = torch.bincount(self.train.labels.cpu(), minlength=len(self.classes))
        return bool(counts.max() >= IMBALANCED * counts.min())

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest over classes, images and labels; the name does not count."""
        if self.sha256 is not None:
            return self.sha256
        both = self.train, self.test
        # Images in memory add their bytes and not their fingerprints: so were the digests of the baselines made.
        parts = (part.pieces() if isinstance(part, Images) else [part.fingerprint.encode()] for part in both)
        return _digest(chain([repr(self.classes).encode()], *parts))


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
