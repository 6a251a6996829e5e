"""Augmentation of training images, in batches on their device, each image in its own way."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from robbench.data.images import centre

_PADDING = 4

_RATIO = 4 / 3
"""Of width to height of a resized crop, at most, and of height to width."""

_TRIES = 10
"""Crops that are drawn of each image; the first that lies in the image counts, or else the centre."""


def augment(
    images: Tensor, kind: str, generator: torch.Generator, *, side: int | None = None, area: float = 0.08
) -> Tensor:
    """Augment training images (N, C, H, W), each one in its own way; (N, C, S, S), or as they are without a ``side`` S.

    ``crop-flip`` pads with 4 pixels of zero, crops a random H x W out of it, and mirrors half of the images.
    ``resized-crop-flip`` resizes a random part of each image, of the share ``area`` of its pixels at least, to S x S,
    and mirrors half of them (Szegedy et al. 2015; torchvision's RandomResizedCrop). ``none`` gives the images
    themselves. The generator is on the images' device.
    """
    if kind == "resized-crop-flip":
        return _resized_crops(images, side or images.shape[-1], area, generator)
    if side is not None:
        images = centre(images, side)
    return images if kind == "none" else _shifted(images, generator)


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Padded, cropped, half of them mirrored."""
    count, channels, height, width = images.shape
    device = images.device
    down, right = torch.randint(2 * _PADDING + 1, (2, count, 1), generator=generator, device=device)
    mirrored = torch.randint(2, (count, 1), generator=generator, device=device).bool()
    columns = torch.arange(width, device=device).expand(count, width)
    columns = right + torch.where(mirrored, columns.flip(1), columns)
    rows = down + torch.arange(height, device=device)
    image = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return pad(images, [_PADDING] * 4)[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _resized_crops(images: Tensor, side: int, area: float, generator: torch.Generator) -> Tensor:
    """Cropped at random, resized, half of them mirrored."""
    from torchvision.transforms.v2 import functional as F  # seconds to import

    boxes = crops(len(images), images.shape[2], images.shape[3], area, generator).tolist()
    mirrored = torch.randint(2, (len(images), 1, 1, 1), generator=generator, device=images.device).bool()
    cut = [F.resized_crop(image, *box, [side, side]) for image, box in zip(images, boxes, strict=True)]
    resized = torch.stack(cut).clamp_(0, 1) if images.is_floating_point() else torch.stack(cut)
    return torch.where(mirrored, resized.flip(3), resized)


def crops(count: int, height: int, width: int, area: float, generator: torch.Generator) -> Tensor:
    """(N, 4) int64 top, left, height, width of random crops, with sizes as torchvision's RandomResizedCrop draws them.

    Their share of the image is uniform from ``area`` to 1, the logarithm of their width ÷ height uniform between that
    of 3 ÷ 4 and of 4 ÷ 3.
    """
    device = generator.device
    drawn = torch.rand(4, count, _TRIES, generator=generator, device=device, dtype=torch.float64)
    size = height * width * (area + (1 - area) * drawn[0])
    ratio = torch.exp((2 * drawn[1] - 1) * math.log(_RATIO))
    tall, wide = (size / ratio).sqrt().round().long(), (size * ratio).sqrt().round().long()
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
    first = fits.to(torch.int8).argmax(dim=1, keepdim=True)
    found = fits.gather(1, first)
    tall, wide = (torch.where(found, drawn.gather(1, first), whole) for drawn, whole in ((tall, height), (wide, width)))
    top, left = (
        (share.gather(1, first) * (whole - cut + 1)).long()
        for share, whole, cut in ((drawn[2], height, tall), (drawn[3], width, wide))
    )
    return torch.cat([top, left, tall, wide], dim=1)
