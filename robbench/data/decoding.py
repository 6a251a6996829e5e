"""From an image file's bytes to pixels of one size, as ImageFolder, Resize and CenterCrop give them. No torch."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from robbench.data.folders import Reader

Array = np.ndarray[Any, np.dtype[np.uint8]]

_CLIPPED = ("I", "F")
"""How the names of modes begin whose pixels have more than 8 bits: conversion would clip them."""

_ORIENTATION = 0x0112
"""The EXIF tag that says how a photograph is to be turned."""


@dataclass(frozen=True)
class Form:
    """What pictures are brought to."""

    channels: int
    resize: int
    """Of the shorter side."""
    side: int
    """Of the central square that is kept."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.side, self.side


@dataclass(frozen=True)
class Look:
    """What was found when a picture was decoded."""

    digest: bytes = b""
    """SHA-256 of its pixels."""
    fault: str = ""
    """Why it cannot be used; empty where it can."""
    turned: bool = False
    """Whether it has an EXIF rotation, which is not applied."""


def decode(data: bytes, form: Form) -> tuple[Array, bool]:
    """(C, S, S) uint8 pixels of an encoded image, and whether it has an EXIF rotation, which is not applied.

    Raises:
        ValueError, or what Pillow raises for a file that it cannot read.
    """
    if not data:
        raise ValueError("empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow: odd metadata, large pictures, transparency in palettes
        image: Image.Image = Image.open(BytesIO(data))
        if image.mode.startswith(_CLIPPED):
            raise ValueError(f"more than 8 bits a pixel (mode {image.mode}), which conversion would clip")
        turned = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
        image = image.convert("RGB" if form.channels == 3 else "L")
    width, height = image.size
    short = min(width, height)
    if short != form.resize:  # as torchvision's Resize: the longer side is rounded down
        size = (form.resize * width // short, form.resize * height // short)
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - form.side) / 2) for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + form.side, top + form.side)))
    return np.array(np.atleast_3d(pixels).transpose(2, 0, 1), order="C"), turned  # a copy, which can be written


def look(reader: Reader, form: Form, hashed: bool, name: str) -> tuple[Array, Look]:
    """A picture's pixels, zeros where it cannot be used, and what was found; ``hashed`` with the pixels' digest."""
    try:
        pixels, turned = decode(reader.read(name), form)
    except Exception as error:  # Pillow's readers raise a dozen kinds for damaged files
        fault = str(error) or type(error).__name__
        unknown = isinstance(error, UnidentifiedImageError)
        return np.zeros(form.shape, dtype=np.uint8), Look(fault="no image that Pillow can read" if unknown else fault)
    return pixels, Look(hashlib.sha256(pixels.tobytes()).digest() if hashed else b"", turned=turned)
