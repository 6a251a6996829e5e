"""Photographs for tests: small drawn images in class folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def photograph(number: int, *, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    """A smooth image, another for every number; the third of its colours that its number chooses is bright."""
    random = np.random.default_rng(number)
    pixels = random.integers(0, 120, (6, 8, 3), dtype=np.uint8)
    pixels[..., number % 3] += 120
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)


def write_folders(
    folder: Path, counts: Mapping[str, int], *, parts: Sequence[str] = ("",), ending: str = "jpg"
) -> Path:
    """So many images of each class, in each of the parts, of mixed sizes; the number of a class chooses its colour."""
    for part, name in enumerate(parts):
        for label, (each, count) in enumerate(counts.items()):
            (folder / name / each).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image = photograph(3 * (100 * part + number) + label, size=(20 + number % 7, 34 - number % 11))
                image.save(folder / name / each / f"{number}.{ending}")
    return folder
